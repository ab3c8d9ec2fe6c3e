"""What several commands do: the config, the store and the predictor that their arguments mean."""

import argparse
import re
import warnings
from pathlib import Path
from typing import Any

from .. import config, effects, presets
from ..errors import ConfigError, DataError

# The settings that evaluate and predict take: folders and device, and how a network is used.
PLACE = config.fields_that("place")

USE = (*PLACE, *config.fields_that("use"))


def config_of(args: argparse.Namespace) -> config.Config:
    """The config file or the preset (binary by default), with the settings of the arguments."""
    settings = settings_of(args)
    if args.config:
        return config.load(args.config, **settings)
    name = settings.pop("preset", config.FIELDS["preset"].default)
    size = settings.pop("size", None)
    return config.preset(name, size, **settings)


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """The fields of `Config` among the arguments, checked."""
    texts = {name: text for name, text in vars(args).items() if name in config.FIELDS}
    for name in ("image_size", "patch_size"):
        if name in texts:
            texts[name] = re.sub(r"(?<=\d)x(?=\d)", ",", texts[name])  # 256x320
    return {name: config.parse(name, text) for name, text in texts.items()}


def store_of(cfg: config.Config, wants_test_part: bool = False) -> tuple[Any, config.Config]:
    """Scan and prepare the data of a config; prints the report of its checks.

    Args:
        wants_test_part: set patients aside for a test, as many as suit the data.

    Returns:
        The store, and the config, which then has the `test_split` that was chosen.
    """
    from .. import layouts, prepare

    cases = layouts.scan(cfg)
    cfg = _with_channels(cfg, cases)
    store, note = prepare.build(cases, cfg), ""
    if wants_test_part:
        test_split, note = prepare.test_split_for(store, cfg)
        cfg = cfg.replace(test_split=test_split)
        store = store.split(cfg)
    print(store.report)
    for row in store.report.problems.itertuples():
        print(f"{row.problem}: {row.action}")
    parts = ", ".join(f"{n} {part}" for part, n in store.cases["split"].value_counts().items())
    print(f"store: {store.folder} ({parts})")
    if note:
        print(note)
    return store, cfg


def _with_channels(cfg: config.Config, cases: Any) -> config.Config:
    """The config with the channels of the data, where the user has not said which ones to take."""
    from ..formats import channels

    cells = list(filter(None, cases["channels"])) if "channels" in cases else []
    if not cells or cfg.channels or "in_channels" in cfg.chosen:
        return cfg
    names = channels.names_of(cells[0])
    print(f"channels: {', '.join(names)}, as the data has them (--channel_names takes others)")
    return cfg.replace(channel_names=names)


def wants_test_part(cfg: config.Config, args: argparse.Namespace) -> bool:
    """Whether nobody has decided how many patients are tested: the user, a file, or the preset."""
    decided = set(args.given) | (config.names_in(args.config) if args.config else set())
    return cfg.test_split == 0 and "test_split" not in decided


def print_without_effect_on(
    args: argparse.Namespace, cfg: config.Config, cases: Any, predictor: Any = None
) -> None:
    """Print a line for each option that has no effect on these cases."""
    is_slice = [bool(name) for name in cases["volume"]] if "volume" in cases else [False]
    now = effects.Situation(cfg, not all(is_slice), any(is_slice))
    print_without_effect(args, now, predictor)


def print_without_effect(args: argparse.Namespace, now: effects.Situation, predictor: Any) -> None:
    """Print a line for each option that has no effect in this situation."""
    from .. import inference

    lines = effects.without_effect(args.function.__name__, args.given, now)
    if predictor and predictor.tta and not predictor.flips:
        lines.append(inference.NO_FLIPS)
    for line in lines:
        print(f"NOTE: {line}")


def run_folder(cfg: config.Config) -> Path:
    """The preset's own run folder, such as `checkpoints` for binary; else `work_dir/<preset>`."""
    from .. import hosts, runs

    folder = presets.PRESETS[cfg.preset].run_folder
    if folder and cfg.work_dir == config.FIELDS["work_dir"].default:
        return Path(hosts.run_root(cfg.replace(work_dir=folder)))
    return runs.folder_of(cfg)


def find_weights(name: str, roots: Any = None) -> Path:
    """The newest weights of that name or pattern, below `roots` or where runs usually lie."""
    from .. import hosts, zoo

    weights = hosts.find_model(name, roots)
    if weights is None:
        missing = hosts.explain_missing_model(name, roots)
        networks = zoo.advice()
        choice = f", or take a network of the zoo: {networks}" if networks else ""
        raise DataError(f"{missing}; train first, or give --model_path{choice}")
    return weights


def predictor_of(args: argparse.Namespace):
    """The `Predictor` of the arguments, and the paths of its weights as text.

    The weights are those of --model_path, of the run that --config or --preset means, or the newest
    best ones. Settings of use and place are taken from the arguments, then from --config; without
    it, those of use are as trained, and those of place have this machine's defaults.
    """
    from .. import inference, runs

    settings = settings_of(args)
    places = {name: settings[name] for name in ("work_dir", "local") if name in settings}
    if args.config:
        base = config.load(args.config, **places)
    else:
        base = config.preset(settings.get("preset", "binary"), **places)

    if args.model_path:
        weights: Any = args.model_path
    elif args.config or "preset" in settings:
        folders = dict.fromkeys([run_folder(base), runs.folder_of(base)])
        folders |= dict.fromkeys(map(runs.folds_folder, folders))
        # Notebooks run in the folder notebooks/, so that their runs lie below it.
        roots = [*folders, *(Path("notebooks") / folder for folder in folders)]
        weights = find_weights(base.checkpoint_name, roots)
    else:
        weights = find_weights("best*.pth", places.get("work_dir"))
    if not args.model_path:
        weights = runs.cross_validation_of(weights) or weights  # the mean of all its networks

    changes = {name: getattr(base, name) for name in (USE if args.config else PLACE)}
    changes |= {name: value for name, value in settings.items() if name in USE}
    predictor = inference.Predictor.load(weights, changes["device"], changes["precision"])
    predictor.config = predictor.config.replace(**changes)
    names = ", ".join(map(str, predictor.files))
    if "preset" in settings and predictor.config.preset != base.preset:
        raise ConfigError(
            f"preset: {base.preset!r}, but {names} were trained as "
            f"{predictor.config.preset!r}; leave --preset out, weights know theirs"
        )
    with warnings.catch_warnings():
        # Printed at the end, where it is seen; see `print_without_effect`.
        warnings.filterwarnings("ignore", "tta has no effect")
        for option in inference.OPTIONS:
            setattr(predictor, option, getattr(args, option))
    machine = f"on {predictor.device} in {predictor.precision}"
    print(f"weights: {names}, {predictor.config.preset}, {machine}")
    return predictor, names
