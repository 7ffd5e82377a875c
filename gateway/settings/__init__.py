"""Every setting of the gateway, documented under its field.

They come from a YAML file (`--config`) and then from the environment: `GATEWAY_HUB__URL` sets `hub.url`.
A setting that does not exist is an error that names the nearest one, in the file and in the environment.
"""
