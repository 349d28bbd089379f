"""Measurements: this fleet beside Python libraries for streams and task queues, each used as it documents."""
