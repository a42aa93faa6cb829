"""A solution of one exercise, and what is left of it: what tests of the checker submit."""

import re

REFERENCE = "minipeft.methods.lora:LoRAPatch"
SOLUTION = """
class LoRAPatch(nn.Module):
    def __init__(self, in_features, out_features, rank, alpha, dropout=0.0, rank_stabilized=False):
        super().__init__()
        self.A = nn.Parameter(torch.randn(rank, in_features) / math.sqrt(in_features))
        self.B = nn.Parameter(torch.zeros(out_features, rank))
        self.dropout = nn.Dropout(dropout)
        self.scale = alpha / (math.sqrt(rank) if rank_stabilized else rank)

    def forward(self, x, y):
        return (y + detour(self.dropout(x.to(self.A.dtype)), self)).to(y.dtype)

    def delta(self):
        return self.scale * self.B @ self.A
"""
HELPER = "def detour(x, patch):\n    return patch.scale * F.linear(F.linear(x, patch.A), patch.B)\n"
IMPORTS = "import math\nimport torch\nfrom torch import nn\nfrom torch.nn import functional as F\n"
WHOLE = IMPORTS + HELPER + SOLUTION
NOT_YET = 'raise NotImplementedError("LoRAPatch.{} is yours to write")'
STUB = re.sub(
    r"(def (forward|delta)\(.*\):\n +)return .*", lambda m: m[1] + NOT_YET.format(m[2]), WHOLE
)
WRONG = WHOLE.replace("self.B @ self.A", "(self.B @ self.A).T")
