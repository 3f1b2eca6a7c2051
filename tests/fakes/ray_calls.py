"""Stands in for Ray: actors in this process, whose calls a test can let fail, die or hang."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

Fate = str  # "runs", "dies" (the worker is gone), "raises", or "hangs"


class RayError(Exception):
    pass


class RayTaskError(RayError):
    cause = ValueError("planted")


class FakeRay:
    """`fate(method, arguments)` decides what becomes of a call. `wait` runs one per actor; `calls` lists them."""

    def __init__(self, fate: Callable[[str, tuple[Any, ...]], Fate] = lambda _method, _arguments: "runs") -> None:
        self.exceptions = types.SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)
        self.fate = fate
        self.actors: list[_Actor] = []
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.most_waiting = 0
        self.alive = True

    def remote(self, **_options: Any) -> Callable[[type], Any]:
        def actor_of(kind: type) -> Any:
            def make(*arguments: Any) -> _Actor:
                self.actors.append(_Actor(self, kind(*arguments)))
                return self.actors[-1]

            return types.SimpleNamespace(remote=make)

        return actor_of

    def wait(self, references: list[_Reference], timeout: float) -> tuple[list[_Reference], list[_Reference]]:
        for actor in self.actors:
            self.most_waiting = max(self.most_waiting, sum(one.outcome is None for one in actor.queue))
            actor.run_one()
        done = [one for one in references if one.outcome is not None]
        return done, [one for one in references if one.outcome is None]

    def get(self, reference: _Reference, timeout: float) -> Any:
        kind, value = reference.outcome or ("error", RayError("no answer"))
        if kind == "error":
            raise value
        return value

    def kill(self, actor: _Actor) -> None:
        actor.die()

    def nodes(self) -> list[dict[str, bool]]:
        return [{"Alive": self.alive}]


class _Reference:
    def __init__(self, method: str, arguments: tuple[Any, ...]) -> None:
        self.method, self.arguments = method, arguments
        self.outcome: tuple[str, Any] | None = None


class _Actor:
    def __init__(self, ray: FakeRay, worker: Any) -> None:
        self._ray, self._worker = ray, worker
        self.queue: list[_Reference] = []
        self._dead = self._hangs = False

    def __getattr__(self, method: str) -> Any:
        if method.startswith("_"):
            raise AttributeError(method)

        def remote(*arguments: Any) -> _Reference:
            reference = _Reference(method, arguments)
            if self._dead:
                reference.outcome = "error", RayError("The actor died. It was killed")
            self.queue.append(reference)
            return reference

        return types.SimpleNamespace(
            remote=remote, options=lambda concurrency_group: types.SimpleNamespace(remote=remote)
        )

    def run_one(self) -> None:
        waiting = [one for one in self.queue if one.outcome is None]
        if not waiting or self._hangs or self._dead or not self._ray.alive:
            return
        first = waiting[0]
        fate = self._ray.fate(first.method, first.arguments)
        if fate == "dies":
            self.die()
        elif fate == "raises":
            first.outcome = "error", RayTaskError("planted")
        elif fate == "hangs":
            self._hangs = True
        else:
            self._ray.calls.append((first.method, first.arguments))
            first.outcome = "value", getattr(self._worker, first.method)(*first.arguments)

    def die(self) -> None:
        self._dead = True
        for one in self.queue:
            one.outcome = one.outcome or ("error", RayError("The actor died. It was killed"))
