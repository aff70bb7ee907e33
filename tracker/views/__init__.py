"""What people see: records in, text out."""
