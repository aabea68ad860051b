"""An independent reading of Hugging Face directories of MiMo-V2, from published facts, in numpy.

It shares nothing with lib/ or kernels/; element codecs and row orders are those of tests/reference. What a directory
means is read from its arrays: names, dtypes, shapes and bytes. What its config.json and its index say is held against
that, and an output against what its source means.

    directory.py   the arrays of a directory, and whose copy of an array counts
    weights.py     one stored weight: codec, values, what is odd about it
    meaning.py     all of them as the model's own tensors, Q, K and V with heads ascending
    matching.py    quantization_config, module by module, in three dialects
    declared.py    config.json, hf_quant_config.json and the index against the arrays
    verdict.py     an output against the meaning of its source
"""
