-- Which nodes boot something from the network now is few of them, and asked often.
CREATE INDEX nodes_netboot ON nodes (id)
WHERE boot_intent IN ('deploy', 'inspect', 'instance', 'rescue');
