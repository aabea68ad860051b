"""Whether a directory can hold checkpoints of the released sizes, as holes."""
import os


def holds_large_sparse_files(directory):
    probe = os.path.join(directory, "probe")
    try:
        with open(probe, "wb") as f:
            f.truncate(60 << 30)
            return os.fstat(f.fileno()).st_blocks < 1 << 20
    except OSError:
        return False
    finally:
        if os.path.exists(probe):
            os.unlink(probe)
