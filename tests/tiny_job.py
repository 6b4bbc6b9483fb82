"""A job of seconds with the parts of a long one.

CARE with drop path, augmentation, schedule, moving average, validation, and a best checkpoint. Jobs
are forks of a server that has imported everything, so that each starts at once.
"""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import sys
import time
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt  # noqa: F401, a Runner imports this and the next two
import numpy as np
import torch
import torch._dynamo
import torchvision  # noqa: F401
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, HOOKS, METRICS, MODELS, TRANSFORMS
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import nn

from care_mm.engine.options import use_deterministic
from care_mm.engine.run import train
from care_mm.errors import InputError

ARCH = dict(
    depths=(1, 1),
    mem_dims=(8, 16),
    interaction_ratios=((1, 1),) * 2,
    attn_head_dims=(8, 8),
)


@DATASETS.register_module()
class Noise(BaseDataset):
    """Samples of random numbers from the pipeline; the label is the index modulo four."""

    def __init__(self, length: int = 12, **settings: Any) -> None:
        self.length = length
        super().__init__(**settings)

    def load_data_list(self) -> list[dict]:
        return [dict(img_path=f"noise://{i}", gt_label=i % 4) for i in range(self.length)]


@TRANSFORMS.register_module()
class MakeNoise:
    """Draw from the generators of Python, NumPy and torch."""

    def __call__(self, data: dict) -> dict:
        image = torch.randn(3, 32, 32) + np.random.rand() + random.random() + data["gt_label"]
        sample = BaseDataElement(metainfo=dict(img_path=data["img_path"]))
        sample.gt = data["gt_label"]
        return dict(inputs=image, data_samples=sample)


@MODELS.register_module()
class Tiny(BaseModel):
    """CARE and a linear layer; ``width`` adds weights, so that checkpoints take time to write."""

    def __init__(self, width: int = 0, nan_at: int = -1, nan_in: str = "loss") -> None:
        super().__init__()
        self.backbone = MODELS.build(
            dict(
                type="CARETransformer",
                arch=ARCH,
                out_indices=(0, 1),
                drop_path_rate=0.3,
                layer_scale_init_value=0.5,
            )
        )
        self.head = nn.Linear(self.backbone.out_channels[-1], 4)
        self.ballast = nn.Parameter(torch.zeros(max(width, 1)))
        self.nan_at, self.nan_in, self.calls = nan_at, nan_in, 0

    def forward(self, inputs: list, data_samples: list, mode: str = "tensor") -> Any:
        logits = self.head(self.backbone(torch.stack(inputs))[-1].mean((2, 3)))
        if mode != "loss":
            return [dict(scores=row) for row in logits]
        self.calls += 1
        labels = torch.tensor([sample.gt for sample in data_samples])
        loss = nn.functional.cross_entropy(logits, labels) + self.ballast.square().mean()
        extra = logits.square().mean() * 1e-3
        if self.calls == self.nan_at:
            if self.nan_in == "loss":
                extra = extra * float("nan")
            else:  # a gradient alone: sqrt'(0) is infinite
                extra = extra + (self.head.bias[0] * 0).abs().sqrt()
        return dict(loss_label=loss, loss_extra=extra)


@METRICS.register_module()
class MeanScore(BaseMetric):
    """A metric that changes from one validation to the next."""

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results.extend(float(sample["scores"].mean()) for sample in data_samples)

    def compute_metrics(self, results: list) -> dict:
        return {"acc": float(np.mean(results))}


@HOOKS.register_module()
class TellHook(Hook):
    """Record the loss, learning rate and samples of every iteration, to the last bit."""

    priority = "LOW"

    def __init__(self, file: str, interrupt_at: int = -1) -> None:
        self.file, self.interrupt_at = file, interrupt_at

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch=None, outputs=None) -> None:
        line = dict(
            iter=runner.iter,
            epoch=runner.epoch,
            loss=float(outputs["loss"].detach()).hex(),
            lr=runner.optim_wrapper.get_lr()["lr"][0].hex(),
            samples=[sample.img_path for sample in data_batch["data_samples"]],
            pixels=float(torch.stack(data_batch["inputs"]).double().sum()).hex(),
        )
        with open(self.file, "a") as file:  # other processes append lines, too
            file.write(json.dumps(line) + "\n")
        if runner.iter == self.interrupt_at:
            os.kill(os.getpid(), signal.SIGINT)

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Do nothing; ``injectors.kill_in_save`` replaces this method."""


def settings(
    work_dir: Path,
    by_epoch: bool = True,
    length: int = 12,
    batch: int = 3,
    rounds: int = 4,
    workers: int = 0,
    width: int = 0,
    seed: int | None = 7,
    interrupt_at: int = -1,
    nan_at: int = -1,
    nan_in: str = "loss",
    launcher: str = "none",
    **checkpoint: Any,
) -> Config:
    """Return a config with ``rounds`` times ``length / batch`` iterations."""
    batches = length // batch
    cycle = (
        dict(by_epoch=True, max_epochs=rounds, val_interval=1)
        if by_epoch
        else dict(by_epoch=False, max_iters=rounds * batches, val_interval=batches)
    )
    dataset = dict(
        type="Noise", length=length, pipeline=[dict(type="MakeNoise")], serialize_data=False
    )
    hook = dict(type="CheckpointHook", by_epoch=by_epoch, max_keep_ckpts=2, save_best="acc")
    hook.update(interval=1 if by_epoch else 2, **checkpoint)
    sampler = "DefaultSampler" if by_epoch else "InfiniteSampler"
    return Config(
        dict(
            default_scope="mmengine",
            model=dict(type="Tiny", width=width, nan_at=nan_at, nan_in=nan_in),
            train_dataloader=dict(
                batch_size=batch,
                num_workers=workers,
                sampler=dict(type=sampler, shuffle=True),
                dataset=dataset,
            ),
            val_dataloader=dict(
                batch_size=3,
                num_workers=0,
                sampler=dict(type="DefaultSampler", shuffle=False),
                dataset=dict(dataset, test_mode=True),
            ),
            train_cfg=cycle,
            val_cfg=dict(),
            val_evaluator=dict(type="MeanScore"),
            optim_wrapper=dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=1e-2)),
            param_scheduler=[
                dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=5),
                dict(type="ExponentialLR", gamma=0.9, by_epoch=by_epoch),
            ],
            default_hooks=dict(checkpoint=hook, logger=dict(type="LoggerHook", interval=1000)),
            custom_hooks=[
                dict(type="EMAHook", momentum=0.1),
                dict(
                    type="TellHook",
                    file=str(work_dir.with_suffix(".jsonl")),
                    interrupt_at=interrupt_at,
                ),
            ],
            randomness=dict(seed=seed),
            log_level="WARNING",
            launcher=launcher,
            work_dir=str(work_dir),
            experiment_name=f"job_{time.time_ns()}",
        )
    )


def job(work_dir: Path, resume: str | None, options: dict) -> None:
    """Train like a command: status 2 and a line in a file for bad input, 130 for a clean stop."""
    mark = options.pop("log", "")
    sys.stdout = sys.stderr = open(work_dir.with_suffix(f".log{mark}"), "a")  # noqa: SIM115
    torch.set_num_threads(1)
    # Formatting the config and describing the machine would take longer than the run.
    Config.pretty_text = property(lambda config: repr(config.to_dict()))
    Runner._log_env = lambda *_: None
    try:
        prepare = options.pop("prepare", None)
        if prepare is not None:
            prepare(work_dir)
        deterministic = options.pop("deterministic", False)
        config = settings(work_dir, **options)
        if deterministic:
            use_deterministic(config)
        train(config, resume=resume)
    except InputError as error:
        work_dir.with_suffix(f".error{mark}").write_text(str(error))
        os._exit(2)
    except KeyboardInterrupt:
        os._exit(130)
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


gc.freeze()  # garbage collection in the forks skips everything imported so far
# The server gets the environment of pytest, but not its sys.path.
_PATHS = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
os.environ["PYTHONPATH"] = os.pathsep.join(_PATHS)
CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload(["tiny_job", "injectors"])


def start(work_dir: Path, resume: str | None = None, **options: Any) -> BaseProcess:
    """Start the job in its own process, which can be killed."""
    process = CONTEXT.Process(target=job, args=(work_dir, resume, options))
    process.start()
    return process


def finish(work_dir: Path, resume: str | None = None, timeout: float = 100, **options: Any) -> int:
    """Run the job to its end and return its exit status, negative for a signal."""
    process = start(work_dir, resume, **options)
    process.join(timeout)
    assert process.exitcode is not None, (
        f"the job hangs: {work_dir.with_suffix('.log').read_text()[-3000:]}"
    )
    return process.exitcode


def told(work_dir: Path) -> list[dict]:
    """Return the recorded iterations of the job, over all its processes and resumptions."""
    file = work_dir.with_suffix(".jsonl")
    lines = file.read_text().splitlines() if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def error_of(work_dir: Path) -> str:
    """Return the one line that the job ended with."""
    line = work_dir.with_suffix(".error").read_text()
    assert line.strip() and "\n" not in line and len(line) < 1200, line
    return line
