"""Generated from proto/tenantd/v1 by scripts/gen-python.sh."""
