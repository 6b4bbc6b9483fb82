"""Give the visualizer of a run class names and colours that it can draw with."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from care_mm.palette import drawable


@HOOKS.register_module()
class DrawingGuardHook(Hook):
    """Complete the colours of a data set, and escape its class names, before they are drawn.

    MM's visualization hooks otherwise end a run on a palette with too few colours, on colours that
    are lists, and on a class name with dollar signs.
    """

    priority = "VERY_HIGH"

    def before_train(self, runner: Runner) -> None:
        """Complete the meta information of the data that are drawn while training."""
        self._complete(runner)

    def before_val(self, runner: Runner) -> None:
        """Complete the meta information of the validation data."""
        self._complete(runner)

    def before_test(self, runner: Runner) -> None:
        """Complete the meta information of the test data."""
        self._complete(runner)

    def _complete(self, runner: Runner) -> None:
        meta = getattr(runner.visualizer, "dataset_meta", None)
        if meta:
            mathtext = type(runner.visualizer).__name__ != "SegLocalVisualizer"
            runner.visualizer.dataset_meta = drawable(meta, mathtext)
