"""The control engine: actor-critic training in JAX on device (gymnax) and host (EnvPool, Gymnasium) environments."""
