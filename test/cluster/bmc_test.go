package cluster

import (
	"net/http"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"ingot/internal/sim/redfish"
	"ingot/internal/testkit"
)

// shared is a BMC of two nodes, each of another conductor, which read its power state all the time.
type shared struct {
	*site
	bmc    *redfish.Service
	db     *pgx.Conn
	r1, r2 *process
	n1, n2 string // nodes by their owners
}

func newShared(t *testing.T) *shared {
	t.Helper()
	b := &redfish.Board{}
	b.Obey()
	// A second session at a time is refused.
	s := &shared{site: newSite(t), bmc: redfish.New(b, redfish.Options{Name: "blade", User: "admin", Password: "secret",
		UUID: "00112233-4455-6677-8899-010203040506", Sessions: 1})}
	if err := s.bmc.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.bmc.Stop(); err != nil {
			t.Error(err)
		}
	})
	var err error
	if s.db, err = pgx.Connect(t.Context(), s.postgres.URL); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.db.Close(t.Context()) })
	program := testkit.Build(t, nil)
	often := "INGOT_CONDUCTOR_SYNC_POWER_STATE_INTERVAL=100ms"
	s.r1, s.r2 = s.serve(program, "r1", often), s.serve(program, "r2", often)
	testkit.Eventually(t, "both know both", func() bool { return len(s.r2.lives()) == 2 && len(s.r1.lives()) == 2 })
	more := []string{"--driver", "redfish", "--bmc", s.bmc.URL(), "--bmc-user", "admin", "--bmc-password", "secret"}
	s.n1, s.n2 = s.r2.ofOwner("r1", more...), s.r2.ofOwner("r2", more...)
	for _, name := range []string{s.n1, s.n2} {
		s.r2.call("PUT", "/v1/nodes/"+name+"/states/provision", `{"target": "manage"}`)
		testkit.Eventually(t, "it is manageable", func() bool { return s.r2.node(name).State == "manageable" })
	}
	testkit.Eventually(t, "both have turns", func() bool { return s.has("r1") })
	testkit.Eventually(t, "both have turns", func() bool { return s.has("r2") })
	return s
}

// has tells whether it is a conductor's turn.
func (s *shared) has(host string) bool {
	s.Helper()
	var n int
	err := s.db.QueryRow(s.Context(), `SELECT count(*) FROM locks JOIN conductors ON incarnation = holder
		WHERE name LIKE 'bmc %' AND hostname = $1`, host).Scan(&n)
	if err != nil {
		s.Fatal(err)
	}
	return n > 0
}

// sessions counts those that were begun, and those that were refused.
func (s *shared) sessions() (begun, refused int) {
	for _, r := range s.bmc.Requests() {
		switch {
		case r.Method != http.MethodPost || !strings.HasSuffix(r.Path, "/Sessions"):
		case r.Status == http.StatusCreated:
			begun++
		default:
			refused++
		}
	}
	return begun, refused
}

// Two conductors talk to a BMC that both have a node of one at a time.
func TestConductorsTakeTurnsAtABMC(t *testing.T) {
	t.Parallel()
	s := newShared(t)
	begun, refused := s.sessions()
	testkit.Eventually(t, "many sessions", func() bool { now, _ := s.sessions(); return now > begun+60 })
	for _, host := range []string{"r1", "r2"} {
		testkit.Eventually(t, "each has turns", func() bool { return s.has(host) })
	}
	if _, now := s.sessions(); now != refused {
		t.Errorf("%d sessions were refused: two talked at a time", now-refused)
	}
}

// A conductor that is stopped, or killed, in its turn keeps the others away until its lease is over.
func TestTheTurnOfADeadConductorEnds(t *testing.T) {
	t.Parallel()
	s := newShared(t)
	testkit.Eventually(t, "r1 is stopped in its turn", func() bool {
		s.r1.signal(syscall.SIGSTOP)
		for range 50 { // what it has sent to the database may be under way
			if !s.has("r1") {
				s.r1.signal(syscall.SIGCONT)
				return false
			}
		}
		return true
	})
	before := len(s.bmc.Requests())
	testkit.Eventually(t, "r2 has its turn", func() bool { return s.has("r2") })
	testkit.Eventually(t, "r2 talks to the BMC", func() bool { return len(s.bmc.Requests()) > before })
	if s.r2.lives()["r1"] {
		t.Error("the lease of r1 is not over")
	}
	s.r1.kill()
}
