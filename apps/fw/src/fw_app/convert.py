"""`fw convert`: a checkpoint that others published as a pickle becomes safetensors, opened in a process of its own."""

import tyro

from fw_app.options import ConvertOptions


def main(argv: list[str]) -> int:
    """`fw convert`: write the folder and say what the file was."""
    options = tyro.cli(ConvertOptions, prog="fw convert", args=argv)

    from fw_model.convert import convert_checkpoint

    done = convert_checkpoint(options.source, options.folder)
    print(f"{options.source} is {done.kind}: {done.tensors} tensors, {done.parameters / 1e6:.1f} M parameters")
    if done.left_out:
        print(f"not used by the model and left out, among them: {', '.join(done.left_out)}")
    for name in done.files:
        print(f"  {done.folder / name}")
    print(f"written to {done.folder}")
    return 0
