"""Methods that learn vectors among the inputs of the towers."""
