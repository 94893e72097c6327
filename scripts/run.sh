# What `make run` does once the environment is there: demo label maps unless SOURCE names others, a scan,
# and the service. Exit code 1 of a scan means that some label maps could not be read; the rest is served.
set -eu
if [ -n "$SOURCE" ]; then
    # A home for each source, so that the weights of the one just counted are the only ones there.
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
