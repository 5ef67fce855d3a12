"""Optimizers of a training, by patterns of parameters' names: other rates or decays for some.

Trainer(..., optimizer={"encoder.*": None, "*.bias": AdamW(), "*": AdamW(weight_decay=0.1)})
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from bessemer.compiler.errors import CompileError
from bessemer.frontends.train.optimizers import Optimizer, check_optimizer

Optimizers = Optimizer | Mapping[str, Optimizer | None]
"""One for all parameters; or by patterns, of which the first that a name matches counts. Parameters
under None or no pattern stay as they are."""


@dataclass(frozen=True)
class ParameterGroups:
    """The optimizer of each parameter. The last one leads: schedules, and callers of a C library,
    set its learning rate, and the others' move in proportion."""

    by_pattern: Mapping[str, Optimizer | None]

    @property
    def learning_rate(self) -> float:
        """The leader's."""
        return [given for given in self.by_pattern.values() if given][-1].learning_rate

    def of(self, name: str) -> Optimizer | None:
        """The optimizer of a parameter, if that is to move."""
        fitting = (o for pattern, o in self.by_pattern.items() if fnmatchcase(name, pattern))
        return next(fitting, None)

    def rate_share(self, optimizer: Optimizer) -> float:
        """What the leader's learning rate is multiplied with for this one."""
        own, leading = optimizer.learning_rate, self.learning_rate
        return 1.0 if own == leading else own / leading

    def check(self, names: Iterable[str]) -> None:
        """Raises CompileError for a pattern that none of the parameters' names matches."""
        known = list(names)
        for pattern in self.by_pattern:
            if not any(fnmatchcase(name, pattern) for name in known):
                raise CompileError(
                    f"The optimizer for {pattern} has no parameter to move; there are "
                    f"{', '.join(known) or 'none'}."
                )


def parameter_groups(given: object) -> ParameterGroups:
    """What a trainer was given as optimizers. Raises CompileError for what are none."""
    by_pattern: Mapping[str, Any] = given if isinstance(given, Mapping) else {"*": given}
    moving = [optimizer for optimizer in by_pattern.values() if optimizer is not None]
    for optimizer in moving:
        check_optimizer(optimizer)
    if not moving:
        raise CompileError("The optimizers are all None: nothing would be trained.")
    groups = ParameterGroups(by_pattern)
    if groups.learning_rate == 0 and any(optimizer.learning_rate for optimizer in moving):
        raise CompileError("The last optimizer's learning rate leads those before it; it is 0.")
    return groups
