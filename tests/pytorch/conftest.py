"""With ``ADAMOFFLOAD_REQUIRE_TORCH=1`` these tests fail where PyTorch is not installed."""

import os

if os.environ.get("ADAMOFFLOAD_REQUIRE_TORCH") == "1":
    import accelerate  # noqa: F401
    import torch  # noqa: F401
    import transformers  # noqa: F401
