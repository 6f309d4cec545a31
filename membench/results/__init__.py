"""What was measured: the schema of records, metrics made of them, their order and their floors."""
