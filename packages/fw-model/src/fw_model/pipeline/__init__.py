"""Generation: `WorldPipeline`, the components it is built from, its inputs, and the `World` it returns."""
