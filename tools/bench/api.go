package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"ingot/internal/postgres"
	"ingot/internal/store"
)

const (
	apiNodes    = 10_000
	apiRequests = 400 // of one kind to one server, in four rounds; a tenth of lists
	apiRounds   = 4
)

// apiRequest is what one client asks again and again. i counts from 0.
type apiRequest struct {
	what, method string
	count        int
	path, body   func(i int) string
}

var apiKinds = []apiRequest{
	{"GET node", http.MethodGet, apiRequests,
		func(i int) string { return "/v1/nodes/" + apiNode(i) }, nil},
	{"GET page of 1000 nodes, detail", http.MethodGet, apiRequests / 10,
		func(i int) string { return "/v1/nodes/detail?limit=1000&marker=" + apiNode(i) }, nil},
	{"PATCH node", http.MethodPatch, apiRequests,
		func(i int) string { return "/v1/nodes/" + apiNode(i) },
		func(i int) string {
			return fmt.Sprintf(`[{"op": "add", "path": "/extra/bench", "value": "%d"}]`, i)
		}},
}

// apiNode is the UUID of a node of the fleet's first half, another one each time.
func apiNode(i int) string { return fmt.Sprintf(uuidFormat, i*37%(apiNodes/2)+1) }

// measureAPI measures how long one client waits for the API, on both engines.
func measureAPI(ctx context.Context, b *bench) (s section, err error) {
	s = section{
		Title: "API: PostgreSQL beside SQLite",
		How: fmt.Sprintf(`p50 of %d requests (lists: %d) of one client over one connection, one after the other, to
bin/ingot serve with %d nodes; %d rounds, the engines taking turns. INGOT is with PostgreSQL of
Debian on this host (a socket file, fsync on, all else as it comes), the yardstick the same rows in
SQLite. PATCH answers when the row is on the disk.
`, apiRequests, apiRequests/10, apiNodes, apiRounds),
	}
	dir := filepath.Join(b.temp, "api")
	if err := makeFleet(ctx, dir, apiNodes, activeNode()); err != nil {
		return s, err
	}
	p, err := postgres.Start("fsync=on")
	if err != nil {
		return s, err
	}
	defer p.Stop()
	if err := copyFleet(ctx, filepath.Join(dir, "ingot.db"), p.URL); err != nil {
		return s, err
	}
	var servers []*service
	for _, env := range [][]string{
		{"INGOT_STORE_URL=" + p.URL, "INGOT_CLUSTER_LISTEN=127.0.0.1:0"}, nil,
	} {
		server, err := b.startIngot(ctx, dir, env...)
		if err != nil {
			return s, err
		}
		defer func() { err = errors.Join(err, server.stop()) }()
		servers = append(servers, server)
	}
	for _, kind := range apiKinds {
		times := make([][]float64, len(servers))
		for round := range apiRounds {
			for j, server := range servers {
				if times[j], err = kind.ask(ctx, server.url, round, times[j]); err != nil {
					return s, err
				}
			}
		}
		s.Figures = append(s.Figures, figure{What: kind.what, Unit: "ms", N: kind.count,
			Value: median(times[0]), Yardstick: median(times[1]), Beside: "SQLite"})
	}
	return s, nil
}

// copyFleet brings the rows of a file into PostgreSQL.
func copyFleet(ctx context.Context, file, url string) (err error) {
	from, err := store.Open(ctx, store.Options{Path: file})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	to, err := store.Open(ctx, store.Options{URL: url})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	return store.Copy(ctx, from, to, nil)
}

// ask makes the requests of a round and appends the milliseconds that each took, answer read.
func (k apiRequest) ask(ctx context.Context, url string, round int, times []float64) ([]float64, error) {
	each := k.count / apiRounds
	for i := round * each; i < (round+1)*each; i++ {
		var body io.Reader
		if k.body != nil {
			body = strings.NewReader(k.body(i))
		}
		req, err := http.NewRequestWithContext(ctx, k.method, url+k.path(i), body)
		if err != nil {
			return nil, err
		}
		req.Header.Set("X-OpenStack-Ironic-API-Version", "1.82")
		req.Header.Set("Content-Type", "application/json")
		start := time.Now()
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return nil, err
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		times = append(times, float64(time.Since(start).Microseconds())/1e3)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode != http.StatusOK {
			return nil, fmt.Errorf("%s: %s: %.200s", k.what, resp.Status, text)
		}
	}
	return times, nil
}
