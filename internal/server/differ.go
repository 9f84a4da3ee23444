package server

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"ingot/internal/bootfile"
	"ingot/internal/bus"
	"ingot/internal/ingot"
)

// inventoryTimeout bounds the wait for the inventory of a conductor.
const inventoryTimeout = 3 * time.Second

// inventorySubject is where a conductor tells what it can serve.
func inventorySubject(host string) string { return "boot.inventory." + bus.Address(host) }

// tellInventory answers others that ask what this conductor can serve.
func (s *server) tellInventory() error {
	return s.bus.Handle(inventorySubject(s.hostname), func(context.Context, []byte) []byte {
		answer, err := json.Marshal(s.keeper.Inventory())
		if err != nil {
			s.log.Error("encode the inventory of boot files", "error", err)
		}
		return answer
	})
}

// differences asks conductors that live for what they can serve, and tells where their boot trees
// differ.
func (s *server) differences(ctx context.Context, hosts []string) []bootfile.Difference {
	if s.bus == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, inventoryTimeout)
	defer cancel()
	var mu sync.Mutex // guards what follows
	all, silent := map[string]bootfile.Inventory{}, []bootfile.Difference{}
	var asked sync.WaitGroup
	for _, host := range hosts {
		asked.Go(func() {
			i, err := s.inventoryOf(ctx, host)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				silent = append(silent, bootfile.Difference{Host: host,
					Problem: "did not tell what it has: " + err.Error()})
				return
			}
			all[host] = i
		})
	}
	asked.Wait()
	return append(silent, bootfile.Compare(all)...)
}

func (s *server) inventoryOf(ctx context.Context, host string) (i bootfile.Inventory, err error) {
	answer, err := s.bus.Call(ctx, inventorySubject(host), nil)
	if err != nil {
		return i, err
	}
	if err := json.Unmarshal(answer, &i); err != nil {
		return i, ingot.Errorf(ingot.Internal, "read its answer: %w", err)
	}
	return i, nil
}
