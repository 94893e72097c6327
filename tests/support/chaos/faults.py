"""The table of faults: how each one starts and ends, and how long it lasts."""

from __future__ import annotations

import random
import signal
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from support.chaos.installation import Installation

HOUR = 3600.0
DOWN_SECONDS = (0.0, 0.5)
"""How long a killed process stays down."""
SHORT_SECONDS = (0.3, 4.0)
"""How long most other faults last."""
LONG_SECONDS = (17.0, 19.0)
"""Longer than a lease, which expires after 15 s."""
SILENT_SECONDS = (12.0, 14.0)
"""Longer than a connection to PostgreSQL may be silent: 10 s."""
HANG_SECONDS = 5.0
"""How long a Dask scheduler or worker may hang at most."""
LONGEST_SECONDS = 60.0
"""Faults that last longer are left out."""
PAUSE_SECONDS = (0.3, 1.5)
"""Time between two faults."""
PAIRED = 0.2
"""Share of the faults during which a second one starts."""


@dataclass(frozen=True)
class Fault:
    """Something that breaks.

    kind     for the tally
    target   what it breaks; two faults at a time have different targets
    seconds  shortest and longest duration
    """

    kind: str
    target: str
    begin: Callable[[], None]
    end: Callable[[], None]
    seconds: tuple[float, float] = SHORT_SECONDS

    @property
    def name(self) -> str:
        return f"{self.kind} {self.target}"


class Planned(NamedTuple):
    """Faults that begin together after a pause, each with its duration, in seconds."""

    pause: float
    faults: tuple[tuple[Fault, float], ...]

    def __str__(self) -> str:
        return ", ".join(f"{fault.name} for {seconds:.2f} s" for fault, seconds in self.faults)


def table(
    installation: Installation, hang: float = HANG_SECONDS, longest: float = LONGEST_SECONDS
) -> list[Fault]:
    """Return the faults that are possible here.

    hang     longest time for which Dask's scheduler and workers stop
    longest  leaves out faults that last longer
    """

    def nothing() -> None: ...

    faults = []
    for name, victim in installation.victims.items():
        stop, go = partial(victim.signal, signal.SIGSTOP), partial(victim.signal, signal.SIGCONT)
        limit = min(SHORT_SECONDS[1], hang) if name.startswith(("scheduler", "worker")) else SHORT_SECONDS[1]
        faults.append(Fault("kill", name, victim.kill, nothing, DOWN_SECONDS))
        faults.append(Fault("stop", name, stop, go, (SHORT_SECONDS[0], limit)))
        if name.startswith(("runner", "executor")):
            faults.append(Fault("stop for longer than a lease", name, stop, go, LONG_SECONDS))
    if (network := installation.network) is not None:
        silence, end = network.silence, network.close_silent
        faults.append(Fault("silence the connections of", "catalog", silence, end))
        faults.append(Fault("silence for longer than a time limit", "catalog", silence, end, SILENT_SECONDS))
        faults.append(Fault("silence the network of", "catalog", partial(silence, all_new=True), end))
    if (disk := installation.disk) is not None:
        faults.append(Fault("fill the disk of", "catalog", disk.fill, disk.empty))
    if installation.clock.can_move:
        move, back = installation.clock.move, partial(installation.clock.move, 0.0)
        faults.append(Fault("advance", "clock", partial(move, HOUR), back))
        faults.append(Fault("set back", "clock", partial(move, -HOUR), back))
    return [fault for fault in faults if fault.seconds[0] <= longest]


def schedule(faults: Iterable[Fault], count: int, seed: int) -> Iterator[Planned]:
    """Yield a number of faults: each once, then each again, and so on, in orders given by the seed."""
    rng = random.Random(seed)
    available, deck = list(faults), list[Fault]()
    while count > 0:
        deck = deck or rng.sample(available, len(available))
        chosen = [deck.pop()]
        others = [fault for fault in deck if fault.target != chosen[0].target]
        if count > 1 and others and rng.random() < PAIRED:
            chosen.append(others[-1])
            deck.remove(others[-1])
        count -= len(chosen)
        durations = [rng.uniform(*fault.seconds) for fault in chosen]
        yield Planned(rng.uniform(*PAUSE_SECONDS), tuple(zip(chosen, durations, strict=True)))
