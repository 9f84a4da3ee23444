package store

import (
	"context"
	"fmt"
)

// netboots selects, in the words of the index nodes_netboot, the nodes that boot something from the
// network now.
const netboots = `nodes.boot_intent IN ('deploy', 'inspect', 'instance', 'rescue')`

// NetbootVersions returns, by the UUIDs of the nodes that boot something from the network now, what
// changes whenever the node or a port of it does.
func (s *Store) NetbootVersions(ctx context.Context) (versions map[string]string, err error) {
	err = s.read(ctx, "list what boots from the network", func(tx *tx) error {
		rows, err := tx.QueryContext(ctx, `SELECT nodes.uuid, nodes.generation,
				COALESCE(ports.id, 0), COALESCE(ports.generation, 0)
			FROM nodes LEFT JOIN ports ON ports.node_id = nodes.id
			WHERE `+netboots+` ORDER BY nodes.id, ports.id`)
		if err != nil {
			return err
		}
		defer rows.Close()
		versions = map[string]string{}
		for rows.Next() {
			var uuid string
			var generation, port, portGeneration int64
			if err := rows.Scan(&uuid, &generation, &port, &portGeneration); err != nil {
				return err
			}
			if versions[uuid] == "" {
				versions[uuid] = fmt.Sprint(generation)
			}
			versions[uuid] += fmt.Sprint(" ", port, ".", portGeneration)
		}
		return rows.Err()
	})
	return versions, err
}
