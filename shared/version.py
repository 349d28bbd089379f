"""The version of everything here."""

VERSION = "0.1.0"
