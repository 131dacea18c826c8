"""The steps, ledger and rules behind `synthesis`."""
