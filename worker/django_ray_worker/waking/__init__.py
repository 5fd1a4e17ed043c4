"""Who hears and who lives: the listening session, the doorbell, the pulse and the watch of a peer."""
