"""`fw generate`: chooses between one world and a batch, on this machine or on a server."""

from fw_app.options import GenerateOptions


def generate(options: GenerateOptions) -> int:
    """`fw generate`: one world or a batch, on this machine or on the server of `--server`. Returns the exit code."""
    if (options.image is None) == (options.batch is None):
        raise ValueError("give either IMAGE, for one world, or --batch FILE, for many")
    if options.batch is None and options.samples_per_pass != 1:
        raise ValueError(f"--samples-per-pass is {options.samples_per_pass}; it applies to --batch only")
    if options.server is not None:
        from fw_app.remote import generate_remotely

        generate_remotely(options)
        return 0
    if options.batch is not None:
        from fw_app.batch import generate_batch

        return generate_batch(options)
    from fw_app.generate import generate as generate_here

    generate_here(options)
    return 0
