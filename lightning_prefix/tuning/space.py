"""What is searched: a distribution for every key, some of them under conditions."""

import difflib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lightning_prefix.errors import InputError

if TYPE_CHECKING:
    import optuna

_FIELDS = ("low", "high", "step", "log", "choices", "only_if")
_PLAIN = (str, int, float, bool, type(None))
"""What Optuna stores as it is."""


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """Where the values of one key come from: numbers from `low` to `high`, or `choices`.

    Args:
        key: what is set, such as `model.learning_rate`.
        name: of the parameter in the study: the key, and the condition where a key has several distributions.
        low: smallest value; with `high` a whole number where both are.
        high: largest value.
        step: distance of neighbouring values, > 0.
        log: draw the logarithm uniformly; `low` is then > 0.
        choices: any plain data; at least one.
        only_if: key -> values; the distribution counts only where every key has one of its values.
    """

    key: str
    name: str
    low: float | None = None
    high: float | None = None
    step: float | None = None
    log: bool = False
    choices: Sequence[Any] = ()
    only_if: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether the conditions are met by these values."""
        return all(
            key in values and _class_name(values[key]) in map(_class_name, allowed)
            for key, allowed in self.only_if.items()
        )

    def suggest(self, trial: "optuna.Trial") -> Any:
        """A value, as Optuna stores it."""
        if self.choices:
            return trial.suggest_categorical(self.name, list(map(_stored, self.choices)))
        if isinstance(self.low, int) and isinstance(self.high, int) and isinstance(self.step or 1, int):
            return trial.suggest_int(self.name, self.low, self.high, step=int(self.step or 1), log=self.log)
        assert self.low is not None  # noqa: S101  # see `_check_numbers`
        assert self.high is not None  # noqa: S101
        return trial.suggest_float(self.name, self.low, self.high, step=self.step, log=self.log)

    def value(self, stored: Any) -> Any:
        """The value that Optuna stored."""
        return next(choice for choice in self.choices if _stored(choice) == stored) if self.choices else stored


@dataclass(frozen=True)
class Space:
    """Distributions, in the order in which they are drawn; read by `Space.parse`.

    Args:
        distributions: a key may have several, under different conditions; the first that holds counts.
        fixed: values of keys that are not searched, for conditions.
        given: what was parsed.
    """

    distributions: Sequence[Distribution]
    fixed: Mapping[str, Any]
    given: Mapping[str, Any]

    @classmethod
    def parse(cls, given: Mapping[str, Any], fixed: Mapping[str, Any] | None = None) -> "Space":
        """Read what a user writes.

        Args:
            given: key -> {low, high, step, log} or {choices}, each with `only_if` if it has conditions; or a list of
                such under different conditions.
            fixed: values of keys that are not searched, for conditions.

        Raises:
            InputError: if it is none.

        Examples:
            >>> space = Space.parse({"rate": {"low": 1e-3, "high": 1e-2, "log": True}, "size": {"choices": [16, 32]}})
            >>> list(space.examples())
            [{'rate': 0.001, 'size': 16}, {'rate': 0.001, 'size': 32}]
        """
        if not isinstance(given, Mapping) or not given:
            raise InputError(
                f"the space {given!r} is given; it is a mapping from keys to distributions, such as "
                "{model.learning_rate: {low: 5e-3, high: 1e-2, log: true}}."
            )
        distributions = [
            _distribution(key, one, several=isinstance(ones, list))
            for key, ones in given.items()
            for one in (ones if isinstance(ones, list) else [ones])
        ]
        space = cls(_conditions_first(distributions), fixed or {}, given)
        space._check_conditions()
        return space

    def sample(self, trial: "optuna.Trial") -> dict[str, Any]:
        """Values of one trial."""
        return self._draw(lambda distribution: distribution.value(distribution.suggest(trial)))

    def values(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Values behind the parameters of a trial."""
        return {d.key: d.value(params[d.name]) for d in self.distributions if d.name in params}

    def examples(self) -> Iterator[dict[str, Any]]:
        """Values such that every distribution and every choice is in one of them."""
        seen = []
        for wanted in self.distributions:
            for value in wanted.choices or [wanted.low]:
                chosen = {wanted.name: value, **self._conditions(wanted)}
                values = self._draw(lambda d, chosen=chosen: chosen.get(d.name, d.choices[0] if d.choices else d.low))
                if values not in seen:
                    seen.append(values)
                    yield values

    def _draw(self, draw: Any) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for distribution in self.distributions:
            if distribution.key not in values and distribution.holds({**self.fixed, **values}):
                values[distribution.key] = draw(distribution)
        return values

    def _conditions(self, wanted: Distribution) -> dict[str, Any]:
        """Parameters with which a distribution counts."""
        found: dict[str, Any] = {}
        for key, allowed in wanted.only_if.items():
            names = list(map(_class_name, allowed))
            for parent in self.distributions:
                fitting = [choice for choice in parent.choices if _class_name(choice) in names]
                if parent.key == key and fitting:
                    found |= {parent.name: fitting[0], **self._conditions(parent)}
                    break
        return found

    def _check_conditions(self) -> None:
        above: dict[str, list[Any]] = {}
        for distribution in self.distributions:
            for key, allowed in distribution.only_if.items():
                if key not in above and key not in self.fixed:
                    raise InputError(
                        f"{distribution.key} has only_if: {key}, which stands neither in the space nor in the config."
                        f"{did_you_mean(key, [*above, *self.fixed])}"
                    )
                known = list(map(_class_name, above.get(key, allowed)))
                if missing := [value for value in allowed if _class_name(value) not in known]:
                    raise InputError(
                        f"{distribution.key} has only_if: {{{key}: {missing[0]!r}}}, which is none of the choices of "
                        f"{key}: {', '.join(map(str, known)) or 'numbers cannot be conditions'}."
                        f"{did_you_mean(str(missing[0]), list(map(str, known)))}"
                    )
            above.setdefault(distribution.key, []).extend(distribution.choices)
        if not self._draw(lambda _: None):
            raise InputError("no distribution of the space holds for this config: see each one's only_if.")


def _conditions_first(distributions: Sequence[Distribution]) -> list[Distribution]:
    """In an order in which every condition is known when it is read; otherwise as they were written."""
    left, ordered = list(distributions), []
    while left:
        keys = {distribution.key for distribution in left}
        free = next((key for key in dict.fromkeys(d.key for d in left) if not _needs(left, key) & keys), None)
        if free is None:
            raise InputError(f"the conditions (only_if) of {', '.join(sorted(keys))} in the space go in a circle.")
        ordered += [distribution for distribution in left if distribution.key == free]
        left = [distribution for distribution in left if distribution.key != free]
    return ordered


def _needs(distributions: Sequence[Distribution], key: str) -> set[str]:
    return {name for distribution in distributions if distribution.key == key for name in distribution.only_if}


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """A sentence with near names; empty if there are none."""
    near = difflib.get_close_matches(name, known, 3, cutoff=0.6)
    return f" Did you mean {' or '.join(near)}?" if near else ""


def _distribution(key: str, given: Any, *, several: bool) -> Distribution:
    """One distribution.

    Raises:
        InputError: saying what is wrong with it.
    """

    def fail(what: str) -> InputError:
        return InputError(
            f"{key}: {given!r} is given in the space; {what}. Write {{low: 5, high: 200, log: true}} or "
            "{choices: [16, 32]}, with only_if: {model.prefix: MLPPrefixConfig} for a condition."
        )

    if not isinstance(given, Mapping):
        raise fail("it is no distribution")
    if unknown := [name for name in given if name not in _FIELDS]:
        raise fail(
            f"{unknown[0]!r} is none of {', '.join(_FIELDS)}.{did_you_mean(str(unknown[0]), _FIELDS)}".rstrip(".")
        )
    conditions = given.get("only_if") or {}
    if not isinstance(conditions, Mapping):
        raise fail("only_if is a mapping from keys to values")
    only_if = {name: value if isinstance(value, list) else [value] for name, value in conditions.items()}
    suffix = " ".join("|".join(str(_class_name(value)) for value in values) for values in only_if.values())
    name = f"{key} [{suffix}]" if several else key
    if "choices" in given:
        _check_choices(given, fail)
        return Distribution(key=key, name=name, choices=given["choices"], only_if=only_if)
    low, high, step = (_number(given.get(name)) for name in ("low", "high", "step"))
    _check_numbers(given, low, high, step, fail)
    return Distribution(key=key, name=name, low=low, high=high, step=step, log=given.get("log", False), only_if=only_if)


def _check_choices(given: Mapping[str, Any], fail: Any) -> None:
    choices = given["choices"]
    if set(given) - {"choices", "only_if"}:
        raise fail("choices stand without low, high, step and log")
    if not isinstance(choices, list) or not choices:
        raise fail("choices is a list of at least one value")
    try:
        stored = list(map(_stored, choices))
    except TypeError:
        raise fail("choices are plain data: text, numbers, true, false, null, lists and mappings") from None
    if len(set(stored)) < len(stored):
        raise fail("two of the choices are equal")


def _check_numbers(
    given: Mapping[str, Any], low: float | None, high: float | None, step: float | None, fail: Any
) -> None:
    if low is None or high is None:
        raise fail("low and high are numbers")
    if low > high:
        raise fail("low is larger than high")
    if not isinstance(given.get("log", False), bool):
        raise fail("log is true or false")
    if given.get("log") and (low <= 0 or given.get("step") is not None):
        raise fail("log: true needs low > 0, and has no step")
    if given.get("step") is not None and not (step and step > 0):
        raise fail("step is a number > 0")


def _number(value: Any) -> float | int | None:
    """A finite number; also of a text such as 5e-3, which YAML reads as text."""
    if isinstance(value, bool):
        return None
    try:
        number = value if isinstance(value, int) else float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _stored(value: Any) -> Any:
    return value if isinstance(value, _PLAIN) else json.dumps(value)


def _class_name(value: Any) -> Any:
    """The last part of a class path; other values as they are."""
    value = value.get("class_path", value) if isinstance(value, Mapping) else value
    return value.rpartition(".")[2] if isinstance(value, str) else value
