"""`ShardedBackboneStrategy`: backbones that are too large for one device."""

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    StrategyRegistry,
)
from lightning.pytorch.strategies.strategy import Strategy

from lightning_prefix.backbone import PrefixedModel
from lightning_prefix.errors import InputError

NAME = "sharded_backbone"


class ShardedBackboneStrategy(DDPStrategy):
    """DDP whose frozen layers are spread over all devices with FSDP2; `--trainer.strategy sharded_backbone`.

    Each device keeps a share of every layer and gathers a layer while it runs. Prefix, head, optimizer and checkpoints
    are those of `ddp`: a checkpoint can be resumed with another strategy, and with another number of devices, though
    not on the same rows then. Embeddings and heads stay whole on each device, and each process reads the whole backbone
    into its own memory first.

    Arguments are those of Lightning's `DDPStrategy`.

    Example:
        >>> from lightning import Trainer
        >>> trainer = Trainer(strategy="sharded_backbone", accelerator="cpu", devices=2, logger=False)
    """

    def setup(self, trainer: Trainer) -> None:
        """Spread the layers; end evaluation together.

        Raises:
            InputError: with options that run layers on some devices only.
        """
        if getattr(self.lightning_module, "activation_cache", None) is not None:
            raise InputError(
                f"activation_cache is given, and with strategy {NAME} all devices run all layers; leave out one."
            )
        for loop in (trainer.fit_loop.epoch_loop.val_loop, trainer.validate_loop, trainer.test_loop):
            loop.inference_mode = False  # FSDP2 gathers into tensors that training needs too
        trainer.predict_loop.inference_mode = False
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        if not any(isinstance(callback, _EndTogether) for callback in callbacks):
            callbacks.insert(0, _EndTogether())
        super().setup(trainer)

    def model_to_device(self) -> None:
        """Spread the layers over the devices, move the rest to this one."""
        for model in _models(self.lightning_module):
            model.shard(self.root_device)
        super().model_to_device()


StrategyRegistry.register(NAME, ShardedBackboneStrategy, description="DDP, frozen layers spread by FSDP2")


def check_strategy(strategy: Strategy) -> None:
    """Refuse what would train wrongly, or write checkpoints that nothing here reads.

    Raises:
        InputError: for FSDP 1, DeepSpeed, and a strategy that shards what the LightningModule says.
    """
    if isinstance(strategy, (DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy)):
        raise InputError(
            f"trainer.strategy {type(strategy).__name__} is given. It spreads optimizer states, which are kilobytes "
            f"here, and would write a prefix in pieces or train one on each device. Use {NAME}, which spreads the "
            "frozen layers (FSDP2), or ddp."
        )


class _EndTogether(Callback):
    """A process that has no more batches helps the others to gather their layers."""

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _wait(pl_module)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _wait(pl_module)

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _wait(pl_module)


def _wait(module: LightningModule) -> None:
    for model in _models(module):
        if model.sharded is not None:
            model.sharded.wait()


def _models(module: LightningModule | None) -> list[PrefixedModel]:
    return [] if module is None else [model for model in module.modules() if isinstance(model, PrefixedModel)]
