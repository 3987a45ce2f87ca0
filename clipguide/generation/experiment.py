"""An experiment: prompts, seeds, and arms, each one way to make the pictures; read from a file.

prompts = "prompts.tsv"            # or a list of texts; limit = 100 takes the first of them
judges = ["starter:judge"]         # scorers that only judge
headline = "starter:judge"         # by which arms are ranked; the first judge
baseline = "unguided"              # which arm the others are held against; the first
seed = 0                           # of the first prompt; num = 1 pictures of each
controls = true                    # matched scale and equal calls for every guided arm; false; or
                                   # a list of them, here or in an arm

[defaults]                         # settings of `clipguide generate`, for all arms
model = "starter"

[arms.unguided]
search = "none"
guidance = { strength = 0 }

[arms.guided]
search = "none"

[arms.elsewhere]
folder = "pictures/"               # made by anything: names, or metadata, as in other arms
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from clipguide.clip.loading import latent_config
from clipguide.data.prompt_files import Prompt, read_prompt_rows
from clipguide.generation.settings import Settings, settings_for
from clipguide.texts import check_text
from clipguide.training.config_file import expanded, parse_file

KEYS = (
    "prompts", "limit", "judges", "headline", "baseline", "seed", "num", "controls", "defaults",
    "arms",
)  # fmt: skip
MATCHED, EQUAL = "matched scale", "equal calls"
"""What a control arm is; its name is the guided arm's, a comma and this."""


@dataclass(frozen=True)
class Arm:
    """One way to make the pictures.

    Attributes:
        name: as the file has it.
        settings: by which they are made here; None: they were made elsewhere.
        folder: where they are then.
        control: of a control arm what it is (`MATCHED`, `EQUAL`), and of which arm.
    """

    name: str
    settings: Settings | None = None
    folder: Path | None = None
    control: tuple[str, str] | None = None

    @property
    def guiding(self) -> str | None:
        """The scorer of pictures that guided or chose; None for an arm without CLIP."""
        if self.settings is None or not self.settings.guided:
            return None
        if self.control is not None and self.control[0] == MATCHED and self.settings.search is None:
            return None  # classifier-free guidance alone
        latent = latent_config(self.settings.scorer)
        return self.settings.scorer if latent is None else latent.teacher


@dataclass(frozen=True)
class Judging:
    """Who judges: scorers beside those that guide, by which arms are ranked, against which arm."""

    judges: tuple[str, ...]
    headline: str
    baseline: str


@dataclass(frozen=True)
class Experiment:
    """Everything that decides its numbers.

    Attributes:
        prompts: with their categories.
        arms: in order; controls are beside the arm they belong to.
        judging: see `Judging`.
        seed: of the first prompt's first picture; picture j of prompt i has seed + i·num + j.
        num: pictures of each prompt.
    """

    prompts: tuple[Prompt, ...]
    arms: tuple[Arm, ...]
    judging: Judging
    seed: int = 0
    num: int = 1

    @property
    def scorers(self) -> list[str]:
        """Every scorer by name: those that guide, then the judges."""
        guiding = [arm.guiding for arm in self.arms if arm.guiding is not None]
        return [*dict.fromkeys((*guiding, *self.judging.judges))]

    @property
    def warnings(self) -> list[str]:
        """What a reader of the numbers must know."""
        guided = [arm.name for arm in self.arms if arm.guiding == self.judging.headline]
        if not guided:
            return []
        return [
            f"the headline is {self.judging.headline}, which guided {', '.join(guided)}: what is "
            "climbed rises by itself; read the other judges"
        ]

    def seeds(self, place: int) -> list[int]:
        """Of the pictures of a prompt."""
        return [self.seed + place * self.num + j for j in range(self.num)]


def read_experiment(file: Path) -> Experiment:
    """The experiment of a TOML or YAML file; its paths are relative to the file.

    Raises:
        ValueError: the file, a key or a setting is not right: which; fewer than two scorers.
    """
    table = cast("dict[str, Any]", expanded(parse_file(file)))
    try:
        return experiment_of(table, file.parent)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def experiment_of(table: Mapping[str, Any], root: Path) -> Experiment:
    """The same of a table that was read; `root` is where its paths begin."""
    unknown = [key for key in table if key not in KEYS]
    if unknown:
        raise ValueError(f"got {unknown[0]!r}, expected one of {', '.join(KEYS)}")
    prompts = _prompts(table, root)
    defaults = _table(table, "defaults")
    arms = [
        each
        for name, own in _table(table, "arms").items()
        for each in _arms(name, defaults, own, root, table.get("controls", True))
    ]
    if not arms:
        raise ValueError("got no arms, expected [arms.NAME] with settings, one or more")
    experiment = Experiment(
        prompts,
        tuple(arms),
        _judging(table, arms),
        _number(table, "seed", 0),
        _number(table, "num", 1, least=1),
    )
    check_judged(experiment)
    return experiment


def check_judged(experiment: Experiment) -> None:
    """Refuse an experiment whose numbers rest on one scorer, or with a headline that none gives.

    Raises:
        ValueError: fewer than two scorers; an unknown headline or baseline; two arms of one name.
    """
    if len(experiment.scorers) < 2:
        got = ", ".join(experiment.scorers) or "none"
        raise ValueError(
            f"got one judge ({got}), expected the guiding scorer and at least one other: judges"
        )
    names, judging = [arm.name for arm in experiment.arms], experiment.judging
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"got arm {twice!r} twice, expected another name: it is a control arm's")
    for what, got, known in (
        ("headline", judging.headline, [*experiment.scorers, "oracle"]),
        ("baseline", judging.baseline, names),
    ):
        if got not in known:
            raise ValueError(f"got {what} {got!r}, expected one of {', '.join(known)}")


def _prompts(table: Mapping[str, Any], root: Path) -> tuple[Prompt, ...]:
    given: object = table.get("prompts")
    if isinstance(given, str):
        found = read_prompt_rows(root / given)
    elif isinstance(given, list) and given:
        found = [Prompt(_text(text)) for text in cast("list[object]", given)]
    else:
        raise ValueError(f"got prompts {given!r}, expected a file or a list of texts")
    for prompt in found:
        if not prompt.text.strip():
            raise ValueError("got an empty prompt, expected a text")
        check_text(prompt.text, "prompt")
    return tuple(found[: _number(table, "limit", len(found), least=1)])


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"got prompt {value!r}, expected a text")
    return value


def _table(table: Mapping[str, Any], key: str) -> dict[str, Any]:
    value: object = table.get(key, {})
    if not isinstance(value, dict):
        raise ValueError(f"got {key} {value!r}, expected a table")
    return cast("dict[str, Any]", value)


def _number(table: Mapping[str, Any], key: str, default: int, least: int = 0) -> int:
    value: object = table.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"got {key} {value!r}, expected a whole number, {least} or more")
    return value


def _arms(
    name: str, defaults: Mapping[str, Any], given: object, root: Path, controls: object
) -> list[Arm]:
    """An arm, and the controls that are asked for, by itself or by the whole experiment."""
    if isinstance(given, dict) and "controls" in given:
        own = cast("dict[str, Any]", given)
        controls = own["controls"]
        given = {key: value for key, value in own.items() if key != "controls"}
    arm = _arm(name, defaults, given, root)
    wanted = _kinds(controls)
    return [arm, *(each for each in _controls(arm) if each.control and each.control[0] in wanted)]


def _kinds(controls: object) -> list[str]:
    """The kinds of control arms that `controls` asks for."""
    if isinstance(controls, bool):
        return [MATCHED, EQUAL] if controls else []
    kinds = cast("list[object]", controls) if isinstance(controls, list) else [controls]
    if not all(kind in (MATCHED, EQUAL) for kind in kinds):
        raise ValueError(
            f"got controls {controls!r}, expected true, false, or a list of {MATCHED!r}, {EQUAL!r}"
        )
    return [str(kind) for kind in kinds]


def _arm(name: str, defaults: Mapping[str, Any], given: object, root: Path) -> Arm:
    if not name.strip():
        raise ValueError("got an arm without a name, expected [arms.NAME]")
    if not isinstance(given, dict):
        raise ValueError(f"arm {name!r}: got {given!r}, expected a table of settings")
    own = cast("dict[str, Any]", given)
    if "folder" in own:
        if len(own) > 1:
            raise ValueError(f"arm {name!r}: got folder and settings, expected one or the other")
        folder = root / str(own["folder"])
        if not folder.is_dir():
            raise ValueError(f"arm {name!r}: got no folder {folder}, expected one of pictures")
        return Arm(name, folder=folder)
    try:
        return Arm(name, settings=_settings(defaults, own))
    except ValueError as error:
        raise ValueError(f"arm {name!r}: {error}") from error


def _settings(defaults: Mapping[str, Any], own: Mapping[str, Any]) -> Settings:
    merged: dict[str, Any] = {**defaults, **own}
    for part in ("guidance", "views"):
        merged[part] = {**_table(defaults, part), **_table(own, part)}
    if merged.get("search") == "none":
        merged["search"] = None
    model = str(merged.pop("model", "starter"))
    merged.setdefault("device", "auto")
    return replace(settings_for(model, merged), judge=None)


def _controls(arm: Arm) -> list[Arm]:
    """What a guided arm has to be held against; their settings are found while it is run."""
    settings = arm.settings
    if settings is None or not settings.guided:
        return []
    kinds = [EQUAL] if settings.guidance.strength == 0 else [MATCHED, EQUAL]
    return [Arm(f"{arm.name}, {kind}", settings, control=(kind, arm.name)) for kind in kinds]


def _judging(table: Mapping[str, Any], arms: list[Arm]) -> Judging:
    given: object = table.get("judges", [])
    if not isinstance(given, list) or not all(
        isinstance(name, str) for name in cast("list[Any]", given)
    ):
        raise ValueError(f"got judges {given!r}, expected a list of scorers")
    judges = tuple(cast("list[str]", given))
    guiding = [arm.guiding for arm in arms if arm.guiding is not None]
    first = next((name for name in judges if name not in guiding), (judges or ("",))[0])
    headline, baseline = table.get("headline", first), table.get("baseline", arms[0].name)
    return Judging(judges, str(headline), str(baseline))
