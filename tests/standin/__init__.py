"""The tests' own hardware: an NVML library and a powercap tree whose energy is known exactly. See README.md."""
