"""The broker: one contract (`ports`) and an adapter a broker."""
