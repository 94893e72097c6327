# Called by `make run`: scans the label maps in SOURCE, or generated demo label maps, and starts the server. A
# scan exits with 1 if some label maps cannot be read; the server then serves the counts of the others.
set -eu
if [ -n "$SOURCE" ]; then
    # A separate home directory for each source, so that the server has one dataset and requests need no name.
    home="$STATE/$(printf %s "$SOURCE" | cksum | cut -d ' ' -f 1)"
    set -- "$SOURCE"
    [ -z "$NAME" ] || set -- "$@" --name "$NAME"
    [ -z "$PATTERN" ] || set -- "$@" --pattern "$PATTERN"
else
    home="$STATE/demo"
    [ -e "$STATE/labels/classes.txt" ] || "$STATSVC" demo "$STATE/labels"
    set -- "$STATE/labels" --name demo --class-names "$STATE/labels/classes.txt"
fi
code=0
"$STATSVC" scan "$@" --home "$home" || code=$?
if [ "$code" -ne 0 ]; then
    [ "$code" -eq 1 ] && "$STATSVC" weights ${NAME:+"$NAME"} --home "$home" >/dev/null 2>&1 || exit "$code"
fi
exec "$STATSVC" serve --port "$PORT" --home "$home"
