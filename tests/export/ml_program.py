"""A Core ML file read back and computed by torch, operation by operation: Core ML itself runs on macOS only."""

import zipfile

import torch
import torch.nn.functional as F


def read_model(path, folder):
    """coremltools' view of a zipped package, unzipped into `folder`."""
    import coremltools

    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
    (package,) = folder.glob("*.mlpackage")
    return coremltools.models.MLModel(str(package), skip_model_load=True)


def operations(model):
    from coremltools.converters.mil.frontend.milproto.load import load

    spec = model.get_spec()
    program = load(spec, spec.specificationVersion, model.weights_dir)
    return program.functions["main"].operations


def weights(model):
    """Every array of floats in the program, sparse ones filled up."""
    values = (constant(op) for op in operations(model))
    return [torch.tensor(value) for value in values if getattr(value, "dtype", None) == "float32"]


def compute(model, image):
    """The output for one sample, a tensor."""
    (given,) = model.get_spec().description.input
    values = {given.name: image}
    for op in operations(model):
        value = constant(op)
        if value is None:
            read = {name: one(var, values) for name, var in op.inputs.items() if var is not None}
            value = OPERATIONS[op.op_type](**read)
        values[op.outputs[0].name] = value
    return values["output"]


def constant(op):
    if op.op_type == "constexpr_sparse_to_dense":
        return op.materialized_val_inference()
    return op.val.val if op.op_type == "const" else None


def one(var, values):
    """An argument as torch takes it: a tensor of floats, otherwise what Python has for it."""
    value = values[var.name]
    if getattr(value, "dtype", None) == "float32":
        return torch.tensor(value)
    return value.tolist() if hasattr(value, "dtype") and not isinstance(value, torch.Tensor) else value


def conv(x, weight, strides, pad_type, pad, dilations, groups, bias=None):
    assert pad_type in ("valid", "custom"), pad_type
    if pad_type == "custom":
        top, bottom, left, right = pad
        x = F.pad(x, (left, right, top, bottom))
    return F.conv2d(x, weight, bias, strides, 0, dilations, groups)


OPERATIONS = {
    "add": lambda x, y: x + y,
    "batch_norm": lambda x, mean, variance, gamma=None, beta=None, epsilon=1e-5: F.batch_norm(
        x, mean, variance, gamma, beta, eps=float(epsilon)
    ),
    "conv": conv,
    "linear": lambda x, weight, bias=None: F.linear(x, weight, bias),
    "mul": lambda x, y: x * y,
    "real_div": lambda x, y: x / y,
    "reduce_mean": lambda x, axes, keep_dims: x.mean(axes, keepdim=keep_dims),
    "relu": lambda x: x.relu(),
    "reshape": lambda x, shape: x.reshape(shape),
    "sqrt": lambda x: x.sqrt(),
    "sub": lambda x, y: x - y,
}
