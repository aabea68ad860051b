"""The tests' own account of the checkpoints, in numpy: codecs, container, layouts, generator, decoder.

Written from the published facts about the formats; shares no code with lib/ or kernels/, so that agreement means
something.
"""
