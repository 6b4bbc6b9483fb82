"""Let the visualizer of a run draw what it can: an image that it cannot draw costs only itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from care_mm.drawing import clarify
from care_mm.errors import one_line

_METHODS = ("add_datasample", "visualize_cls")  # by which MM's visualization hooks draw


@HOOKS.register_module()
class DrawingGuardHook(Hook):
    """Keep the drawing of predictions from ending a run or losing an image.

    MM's visualization hooks otherwise end a run on a palette with too few colours, on colours that
    are lists, on a class name with dollar signs, and on any image that the visualizer fails on;
    images of the same name from several folders overwrite each other. With this hook, colours are
    completed, names are escaped, failures are logged, names are numbered, small images are
    enlarged, and labels cover no objects.
    """

    priority = "VERY_HIGH"

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.written: set[str] = set()

    def before_train(self, runner: Runner) -> None:
        """Guard the images that are drawn while training."""
        self._guard(runner)

    def before_val(self, runner: Runner) -> None:
        """Guard the images of a validation."""
        self._guard(runner)

    def before_test(self, runner: Runner) -> None:
        """Guard the images of a test."""
        self._guard(runner)

    def after_test(self, runner: Runner) -> None:
        """Log how many images could not be drawn."""
        if self.problems:
            number = len(self.problems)
            runner.logger.warning(
                f"{number} image{'' if number == 1 else 's'} could not be drawn, the first is "
                f"{self.problems[0]}"
            )

    def _guard(self, runner: Runner) -> None:
        visualizer = runner.visualizer
        meta = getattr(visualizer, "dataset_meta", None)
        if meta:
            clarify(visualizer, meta)
        self.written.clear()
        for name in _METHODS:
            method = getattr(visualizer, name, None)
            if callable(method) and not getattr(method, "is_guarded", False):
                setattr(visualizer, name, self._guarded(method, runner))

    def _guarded(self, draw: Callable, runner: Runner) -> Callable:
        """Return a method of a visualizer that logs its failures."""

        def draw_or_log(*args: Any, **kwargs: Any) -> None:
            if kwargs.get("out_file"):
                kwargs["out_file"] = self._free_name(kwargs["out_file"])
            try:
                draw(*args, **kwargs)
            except Exception as error:
                name = getattr(kwargs.get("data_sample"), "img_path", None) or args[:1]
                line = f"{name}: {type(error).__name__}: {one_line(error, 200)}"
                self.problems.append(line)
                runner.logger.warning(f"image {line}; it is not drawn")

        draw_or_log.is_guarded = True
        return draw_or_log

    def _free_name(self, file: str) -> str:
        """Return the name of a file, numbered if an image of this test has it already."""
        path, number = Path(file), 1
        while str(path) in self.written:
            number += 1
            path = Path(file).with_name(f"{Path(file).stem}_{number}{Path(file).suffix}")
        self.written.add(str(path))
        return str(path)
