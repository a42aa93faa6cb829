"""Is this the same base? Hashes of a model's own weights, with doors looked through."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from minipeft.doors.door import walk
from minipeft.model.libraries import is_sharded_tensor, unwrapped

DTYPES = {str(d).removeprefix("torch."): d for d in (torch.float32, torch.bfloat16, torch.float16)}


def fingerprint(model: nn.Module) -> str:
    """SHA-256 of every parameter and buffer of the base as it is now: names, shapes and all bits.

    Patches and copied heads are not part of it, so it is the same before, during and after the
    training of a frozen base. One changed bit changes it; so does merging, which writes the base.
    22 M parameters take about 0.1 s.
    """
    digest = hashlib.sha256()
    for name, tensor in base_tensors(unwrapped(model)):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(raw_bytes(tensor))
    return digest.hexdigest()


def identity(model: nn.Module, without: tuple[str, ...] = ()) -> dict[str, str]:
    """What a file keeps to recognise the base it was trained on, as it was before any training.

    without: paths of modules to leave out (task heads, which are random for each fresh task).

    Returns:
        "dtype" and "exact", SHA-256 of all bits; "shapes"; and for every floating dtype that is as
        coarse or coarser a hash of 256 values of each tensor, read in that dtype: the same base
        may be opened in half precision later.
    """
    first = first_values(model)
    outside = tuple(f"{path}." for path in without)
    weights = [
        (name, first.get(id(tensor), tensor))
        for name, tensor in base_tensors(model, first=True)
        if isinstance(tensor, nn.Parameter) and not name.startswith(outside)
    ]
    dtype = base_dtype(model)
    coarser = [key for key, d in DTYPES.items() if d == dtype or d.itemsize < dtype.itemsize]
    digests = {key: hashlib.sha256() for key in ("exact", "shapes", *coarser)}
    for name, tensor in weights:
        digests["shapes"].update(f"{name} {tuple(tensor.shape)};".encode())
        digests["exact"].update(raw_bytes(tensor))
        flat = whole(tensor).reshape(-1)
        few = flat[:: 1 + flat.numel() // 256]
        for key in coarser:
            digests[key].update(raw_bytes(few.to(DTYPES[key])))
    hashes = {key: digest.hexdigest()[:32] for key, digest in digests.items()}
    return {"dtype": str(dtype).removeprefix("torch."), **hashes}


def same_base(model: nn.Module, known: dict[str, str], without: tuple[str, ...] = ()) -> bool:
    """Is this the base that `identity` described? In another dtype 256 values per tensor decide."""
    now = identity(model, without)
    if now["shapes"] != known.get("shapes"):
        return False
    if now["dtype"] == known.get("dtype"):
        return now["exact"] == known.get("exact")
    common = [key for key in DTYPES if key in now and key in known]
    return not common or now[common[0]] == known[common[0]]


def base_tensors(model: nn.Module, first: bool = False) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of the base's parameters and persistent buffers; a tied one once.

    first: the base's own also where those of a merged copy stand in their place.
    """
    seen = set()
    kept = model.minipeft.originals.tensors if first and "minipeft" in vars(model) else {}
    for path, module in walk(model):
        fleeting = module._non_persistent_buffers_set
        parameters, buffers = kept.get(module, (module._parameters, module._buffers))
        tensors = {**parameters, **buffers}
        for key, tensor in tensors.items():
            if tensor is None or key in fleeting or id(tensor) in seen:
                continue
            seen.add(id(tensor))
            yield f"{path}.{key}" if path else key, tensor


def base_dtype(model: nn.Module) -> torch.dtype:
    """The dtype of the base's first floating-point parameter."""
    floats = (t.dtype for _, t in base_tensors(model) if t.is_floating_point())
    return next(floats, torch.float32)


def first_values(model: nn.Module) -> dict[int, Tensor]:
    """id of a base parameter -> its value before training or merging changed it."""
    attached = vars(model).get("minipeft")
    values: dict[int, Tensor] = {}
    if attached is None:
        return values
    values |= {id(parameter): first for parameter, first in attached.originals.values.items()}
    for tuner in attached.tuners.values():  # they are beneath what is merged
        values |= {id(parameter): first for parameter, first in tuner.base_values.items()}
    return values


def raw_bytes(tensor: Tensor) -> memoryview:
    """The bits of a tensor, row by row."""
    flat = whole(tensor).cpu().contiguous().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy())


def whole(tensor: Tensor) -> Tensor:
    """Its values; of one that FSDP has sharded the parts of all processes, which must all ask."""
    tensor = tensor.detach()
    return tensor.full_tensor() if is_sharded_tensor(tensor) else tensor
