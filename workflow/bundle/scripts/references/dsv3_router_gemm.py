"""Matrix product in float32."""

# The function makes its output: there is nothing to poison.
POISON = ()


def expected(x, dims):
    """hidden_states [T, Kd] times router_weights [N, Kd] transposed; returns {"logits": [T, N] float32}."""
    return {"logits": x["hidden_states"].float() @ x["router_weights"].float().T}


def actual(x, result):
    """The logits are what the function returns."""
    return {"logits": result}


def simulate(x, dims):
    """Return what the function would return."""
    return expected(x, dims)["logits"]
