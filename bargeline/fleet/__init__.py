"""A fleet on one machine: worker processes, and embedded servers, under one supervisord."""
