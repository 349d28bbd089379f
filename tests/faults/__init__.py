"""The fault kit: a fleet under load, a seeded schedule of faults, and a count kept outside Redis."""
