"""Networks: encoders, fusion, heads, and the readout that combines them."""
