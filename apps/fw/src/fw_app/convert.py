"""`fw convert`: convert a published pickle checkpoint to safetensors, in a separate process."""

from fw_app.options import ConvertOptions


def convert(options: ConvertOptions) -> None:
    """Write the folder and print what kind of checkpoint the file was."""
    from fw_model.convert import convert_checkpoint

    done = convert_checkpoint(options.source, options.folder)
    print(f"{options.source} is {done.kind}: {done.tensors} tensors, {done.parameters / 1e6:.1f} M parameters")
    for note in done.notes:
        print(note)
    if done.left_out:
        print(f"not used by the model and omitted, among others: {', '.join(done.left_out)}")
    for name in done.files:
        print(f"  {done.folder / name}")
    print(f"written to {done.folder}")
