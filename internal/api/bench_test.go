package api_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"

	"ingot/internal/api"
	"ingot/internal/ingot"
	"ingot/internal/store"
)

// BenchmarkList measures a page of 1000 nodes, without the network.
func BenchmarkList(b *testing.B) {
	s, err := store.Open(b.Context(), store.Options{Path: filepath.Join(b.TempDir(), "db")})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	for i := range 1000 {
		n := &ingot.Node{UUID: fmt.Sprintf("11111111-2222-4333-8444-%012d", i), Driver: "ipmi",
			ProvisionState: "available", DriverInfo: ingot.Object{"ipmi_address": "192.0.2.1",
				"ipmi_password": "hush"}, Properties: ingot.Object{"cpus": 4, "memory_mb": 4096}}
		if err := s.CreateNode(b.Context(), n); err != nil {
			b.Fatal(err)
		}
	}
	h := api.New(api.Options{Store: s, Conductor: &recorder{store: s}}).Handler()
	for _, path := range []string{"/v1/nodes", "/v1/nodes/detail"} {
		b.Run(path, func(b *testing.B) {
			for b.Loop() {
				r := httptest.NewRequest(http.MethodGet, path, nil)
				r.Header.Set("X-OpenStack-Ironic-API-Version", "1.82")
				w := httptest.NewRecorder()
				if h.ServeHTTP(w, r); w.Code != http.StatusOK {
					b.Fatalf("status %d: %s", w.Code, w.Body)
				}
				b.SetBytes(int64(w.Body.Len()))
			}
		})
	}
}
