"""Files that may change while we serve: looked at in turn, taken up whole, or refused.

`Follower` compares what stands on disk with what was taken up last, once a second and
on SIGHUP. What changed is read on a thread and put in place on the event loop; what
cannot be read is told once, and the old one stays. Knows nothing of what the files mean.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from handler.aside import OneAtATime, TookTooLong
from handler.log import Log

# The contract says 10 s; a look is a few system calls.
LOOK_S = 1.0
# What could not be read is tried again though its files look as they did: a right or a mount may have come back.
RETRY_S = 10.0
# A volume that has not answered by then hangs. A model is read, hashed and proven on its golden queries.
LOOK_WITHIN_S, LOAD_WITHIN_S = 5.0, 60.0
# Of a folder, so many files count; a model has three.
FILES_MAX = 64

Fingerprint = tuple[Any, ...]


def fingerprint(path: Path) -> Fingerprint:
    """What tells a file, or a folder with the files in it, from its next version; empty where it is not.

    Where a path leads counts too, so that a symlink put in another's place is seen, as
    Kubernetes does it with mounted volumes. Blocks.
    """
    try:
        real = os.path.realpath(path)
        own = _facts(os.stat(real))
        if not os.path.isdir(real):
            return (real, own)
        files = sorted(os.listdir(real))[:FILES_MAX]
        return (real, own, *((name, _facts(os.stat(os.path.join(real, name)))) for name in files))
    except OSError:
        return ()


def _facts(stat: os.stat_result) -> Fingerprint:
    # The time of the last change of right or name (ctime) too: a file that could not be read may be now.
    return (stat.st_dev, stat.st_ino, stat.st_mode, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


@dataclass
class Followed:
    """Something on disk that is followed.

    setting  the setting that names it, for log lines
    what     it is, in a word: names the events "policy_loaded" and "policy_not_loaded"
    paths    files or folders; a change of any is a change
    load     reads it all again, on a thread; raises when it cannot be taken up
    place    puts what was read in force, on the event loop, and returns what the log should say of
             it; raises when it does not fit
    refuses  exceptions of `load` and `place` whose message is for the operator; others are bugs
    trouble  why what stands on disk is not in force; None when it is
    taken    what `paths` looked like before what is in force was read; empty where nothing was read yet, and
             None: as they look now
    """

    setting: str
    what: str
    paths: tuple[Path, ...]
    load: Callable[[], Any]
    place: Callable[[Any], dict[str, Any]]
    refuses: tuple[type[Exception], ...] = (OSError, ValueError)
    trouble: str | None = None
    taken: Fingerprint | None = None
    retry_at: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        if self.taken is None:
            self.taken = self.look()

    def look(self) -> Fingerprint:
        return tuple(fingerprint(path) for path in self.paths)


class Follower:
    """Follows what it is given, for as long as `run` does."""

    def __init__(
        self,
        items: Iterable[Followed],
        log: Log,
        *,
        in_thread: Callable[[Callable[[], Any]], Awaitable[Any]] | None = None,
    ) -> None:
        """
        in_thread  makes a blocking call; None: each item's on a thread of its own, which is left behind
                   when it hangs, so that what stands on a hanging volume keeps nothing else from changing
        """
        self.items = list(items)
        self._log = log
        self._in_thread = in_thread
        self._calls = {item.setting: OneAtATime(f"follow {item.setting}") for item in self.items}
        self._nudged = asyncio.Event()
        self._under_way: dict[str, asyncio.Task[bool]] = {}

    def nudge(self) -> None:
        """Look at once, and try again what was refused: SIGHUP."""
        self._nudged.set()

    def trouble(self, setting: str) -> str | None:
        """Why what a setting names is not in force as it stands on disk; None when it is, or is not followed."""
        return next((item.trouble for item in self.items if item.setting == setting), None)

    def troubles(self, what: str) -> dict[str, str | None]:
        """The same by setting, for all of one kind: `what` of `Followed`."""
        return {item.setting: item.trouble for item in self.items if item.what == what}

    def add(self, item: Followed) -> None:
        """Follow one thing more from now on."""
        self.items.append(item)
        self._calls[item.setting] = OneAtATime(f"follow {item.setting}")

    async def run(self) -> None:
        """Follow for ever."""
        try:
            while True:
                try:
                    async with asyncio.timeout(LOOK_S):
                        await self._nudged.wait()
                except TimeoutError:
                    pass
                nudged = self._nudged.is_set()
                self._nudged.clear()
                await self.look(nudged=nudged)
        finally:
            for task in self._under_way.values():
                task.cancel()

    async def look(self, *, nudged: bool = False) -> None:
        """Take up whatever has changed. Raises nothing for what is on disk.

        What takes longer than the next look is left under way: it keeps no other from being looked at.
        """
        begun = [self._begin(item, self._look_at(item, nudged)) for item in self._resting()]
        while begun:
            await asyncio.wait(begun, timeout=LOOK_S)
            done = {setting: task for setting, task in self._under_way.items() if task.done()}
            for setting in done:
                del self._under_way[setting]
            news = [task.result() for task in done.values()]  # of all, or an error of one would be lost
            # A model and the policy that fits it may come at once: what fitted nothing before may fit now.
            troubled = [item for item in self._resting() if item.trouble is not None] if any(news) else []
            begun = [self._begin(item, self._take(item)) for item in troubled]

    def _resting(self) -> list[Followed]:
        return [item for item in self.items if item.setting not in self._under_way]

    def _begin(self, item: Followed, work: Coroutine[Any, Any, bool]) -> "asyncio.Task[bool]":
        task = self._under_way[item.setting] = asyncio.create_task(work)
        return task

    async def _look_at(self, item: Followed, nudged: bool) -> bool:
        """Whether something new is in force."""
        try:
            print_ = await self._aside(item, item.look, LOOK_WITHIN_S)
        except TookTooLong as exc:
            self._refuse(item, exc)
            return False
        now = asyncio.get_running_loop().time()
        refused = item.trouble is not None and (nudged or now >= item.retry_at)
        if print_ == item.taken and not refused:
            return False
        item.taken = print_  # what changes while it is read is seen at the next look
        return await self._take(item)

    async def _take(self, item: Followed) -> bool:
        """Whether it is in force now."""
        try:
            facts = item.place(await self._aside(item, item.load, LOAD_WITHIN_S))
        except Exception as exc:  # whatever a file does to its reader, the gateway goes on with the old one
            self._refuse(item, exc)
            return False
        item.trouble = None
        self._log.info(f"{item.what}_loaded", setting=item.setting, **facts)
        return True

    async def _aside(self, item: Followed, call: Callable[[], Any], within_s: float) -> Any:
        if self._in_thread is not None:
            return await self._in_thread(call)
        return await self._calls[item.setting].call(call, within_s)

    def _refuse(self, item: Followed, exc: Exception) -> None:
        """Leave in force what is, and say why."""
        known = isinstance(exc, (*item.refuses, TookTooLong))
        why = _reason(exc) if known else f"{type(exc).__name__} while it was read"
        if why != item.trouble:  # once per reason, not at every look
            self._log.error(
                f"{item.what}_not_loaded",
                error_type="SettingsError" if known else "InternalError",
                error=None if known else exc,
                setting=item.setting,
                message=f"{why}; what was loaded before stays in force",
            )
        item.trouble = why
        item.retry_at = asyncio.get_running_loop().time() + RETRY_S


def _reason(refused: Exception) -> str:
    if isinstance(refused, TookTooLong):
        return "the volume that it stands on does not answer"
    if isinstance(refused, OSError) and refused.filename:
        return f"{refused.filename} cannot be read ({refused.strerror})"
    return str(refused)
