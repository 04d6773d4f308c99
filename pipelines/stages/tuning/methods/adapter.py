"""Methods that leave a model's own weights alone and train some beside them, all of them by peft."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.core.adapters import CONFIG, FOLDER
from pipelines.stages.tuning.methods.method import Method, Stored, load_trained

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import Tensor


class Adapter(Method, frozen=True):
    """Base of the methods that peft carries out."""

    def config(self, model: Any, values: bool) -> PeftConfig:
        """What peft is asked for, of a model; without `values`, nothing is computed of the model's weights."""
        raise NotImplementedError

    def apply(self, model: Any, seed: int, values: bool = True) -> Any:
        import torch
        from peft import get_peft_model

        torch.manual_seed(seed)
        with warnings.catch_warnings():  # what peft has to say of its own releases
            warnings.simplefilter("ignore")
            return get_peft_model(model, self.config(model, values))

    def write(self, model: Any, stored: Stored, weights: dict[str, Tensor], into: Path, base: str, seed: int) -> None:
        """The adapter, a folder for peft; and the model with it, or, where it cannot be merged, its configuration."""
        whole = self.apply(stored.open(), seed)
        self.save(whole, weights, into / FOLDER, base)
        if self.merges:
            whole.merge_and_unload().save_pretrained(into)
            return
        plain = whole.get_base_model()
        plain.config.save_pretrained(into)
        plain.generation_config.save_pretrained(into)

    def save(self, whole: Any, weights: dict[str, Tensor], folder: Path, base: str) -> None:
        """Give the adapted model its trained weights, and write the adapter."""
        load_trained(whole, weights)
        write_adapter(whole, folder, base)


def write_adapter(model: Any, folder: Path, base: str, **options: Any) -> None:
    """An adapter as peft writes it, without this machine: it names its base, not where that lies here, and is in no
    order of this process's hashes. `options` are those of peft's `save_pretrained`."""
    # Else peft asks the hub for a model of the base's name, to see whether it has other rows.
    model.save_pretrained(str(folder), save_embedding_layers=False, **options)
    (folder / "README.md").unlink()  # a form to fill in
    config = json.loads((folder / CONFIG).read_bytes())
    ordered = {name: sorted(value) if isinstance(value, list) else value for name, value in config.items()}
    text = json.dumps(ordered | {"base_model_name_or_path": base}, indent=2, sort_keys=True)
    (folder / CONFIG).write_text(text + "\n")
