package iscsi_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"ingot/internal/iscsi"
	"ingot/internal/iscsi/iscsitest"
)

func TestLoginWithCHAP(t *testing.T) {
	t.Parallel()
	target := iscsitest.Start(t, iscsitest.Options{Username: "ingot", Secret: "twelve-chars-1"})
	s := dial(t, config(target))
	if _, err := s.WriteAt(random(1, 4096), 0); err != nil {
		t.Fatal(err)
	}
}

func TestLoginWithCHAPToATargetThatDoesNotAsk(t *testing.T) {
	t.Parallel()
	cfg := config(iscsitest.Start(t, iscsitest.Options{}))
	cfg.CHAP = &iscsi.CHAP{Username: "ingot", Secret: "twelve-chars-1"}
	dial(t, cfg)
}

func TestRefusedLoginSaysWhatToDo(t *testing.T) {
	t.Parallel()
	guarded := iscsitest.Start(t, iscsitest.Options{Username: "ingot", Secret: "twelve-chars-1"})
	open := iscsitest.Start(t, iscsitest.Options{})
	cases := map[string]struct {
		target *iscsitest.Target
		change func(*iscsi.Config)
		want   string
	}{
		"wrong secret": {guarded, func(c *iscsi.Config) { c.CHAP.Secret = "wrong-secret-99" },
			"check the CHAP user name and secret"},
		"wrong user": {guarded, func(c *iscsi.Config) { c.CHAP.Username = "nobody" },
			"check the CHAP user name and secret"},
		"no CHAP": {guarded, func(c *iscsi.Config) { c.CHAP = nil },
			"none is configured"},
		"unknown target": {open, func(c *iscsi.Config) { c.Target += "x" },
			"check the IQN"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := config(tc.target)
			tc.change(&cfg)
			_, err := iscsi.Dial(t.Context(), cfg)
			var refused *iscsi.LoginError
			if !errors.As(err, &refused) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v", err)
			}
			if err != nil && strings.Contains(err.Error(), "wrong-secret") {
				t.Errorf("secret shows: %v", err)
			}
		})
	}
}

func TestMutualCHAP(t *testing.T) {
	t.Parallel()
	const user, secret = "machine", "another-secret-2"
	mutual := iscsitest.Start(t, iscsitest.Options{Username: "ingot", Secret: "twelve-chars-1",
		TargetUsername: user, TargetSecret: secret})
	oneWay := iscsitest.Start(t, iscsitest.Options{Username: "ingot", Secret: "twelve-chars-1"})
	open := iscsitest.Start(t, iscsitest.Options{})
	for name, tc := range map[string]struct {
		target       *iscsitest.Target
		user, secret string
		want         string
	}{
		"proven":       {mutual, user, secret, ""},
		"not asked":    {mutual, "", "", ""},
		"wrong secret": {mutual, user, "wrong-secret-99", "answer to our CHAP challenge is wrong"},
		"wrong name":   {mutual, "other", secret, `calls itself "machine"`},
		"one way only": {oneWay, user, secret, "outgoing account"},
		"no CHAP":      {open, user, secret, "outgoing account"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := config(tc.target)
			cfg.CHAP = &iscsi.CHAP{Username: "ingot", Secret: "twelve-chars-1",
				TargetUsername: tc.user, TargetSecret: tc.secret}
			s, err := iscsi.Dial(t.Context(), cfg)
			if err == nil {
				_ = s.Close(t.Context())
			}
			if tc.want == "" && err != nil ||
				tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("got %v", err)
			}
			if err != nil && strings.Contains(err.Error(), "secret-") {
				t.Errorf("secret shows: %v", err)
			}
		})
	}
}

func TestMissingLUNIsNamed(t *testing.T) {
	t.Parallel()
	target := iscsitest.Start(t, iscsitest.Options{})
	for lun, want := range map[uint64]string{
		7: "no such LUN", 300: "no such LUN", 0: "storage array controller",
	} {
		cfg := config(target)
		cfg.LUN = lun
		_, err := iscsi.Dial(t.Context(), cfg)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("LUN %d: %v", lun, err)
		}
	}
}

func TestRefusedConnectionSaysWhatToDo(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := listener.Addr().String()
	_ = listener.Close()
	_, err = iscsi.Dial(t.Context(), iscsi.Config{Address: addr, Target: "iqn.2026-01.x:y"})
	if err == nil || !strings.Contains(err.Error(), "check address and port") {
		t.Errorf("got %v", err)
	}
}

// silent accepts connections and says nothing.
func silent(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var conns []net.Conn
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			conns = append(conns, conn)
		}
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		<-done
		for _, conn := range conns {
			_ = conn.Close()
		}
	})
	return listener.Addr().String()
}

func TestSilentServerEndsWithTheTimeout(t *testing.T) {
	t.Parallel()
	cfg := iscsi.Config{Address: silent(t), Target: "iqn.2026-01.x:y",
		DialTimeout: 50 * time.Millisecond}
	_, err := iscsi.Dial(t.Context(), cfg)
	if !errors.Is(err, context.DeadlineExceeded) ||
		!strings.Contains(err.Error(), "check that it is an iSCSI portal") {
		t.Errorf("got %v", err)
	}
}

func TestSilentServerEndsWithTheContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := iscsi.Dial(ctx, iscsi.Config{Address: silent(t), Target: "iqn.2026-01.x:y"})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestConfigIsCheckedBeforeDialling(t *testing.T) {
	t.Parallel()
	good := iscsi.Config{Address: "127.0.0.1:1", Target: "iqn.2026-01.x:y"}
	for name, change := range map[string]func(*iscsi.Config){
		"Address": func(c *iscsi.Config) { c.Address = "" },
		"Target":  func(c *iscsi.Config) { c.Target = "" },
		"LUN":     func(c *iscsi.Config) { c.LUN = 1 << 14 },
		"CHAP":    func(c *iscsi.Config) { c.CHAP = &iscsi.CHAP{Username: "x"} },
		"CHAP of the target": func(c *iscsi.Config) {
			c.CHAP = &iscsi.CHAP{Username: "x", Secret: "y", TargetUsername: "z"}
		},
		"must differ": func(c *iscsi.Config) {
			c.CHAP = &iscsi.CHAP{Username: "x", Secret: "y", TargetUsername: "z", TargetSecret: "y"}
		},
		"Digest":      func(c *iscsi.Config) { c.DataDigest = "MD5" },
		"PingTimeout": func(c *iscsi.Config) { c.PingTimeout = -1 },
		"QueueDepth":  func(c *iscsi.Config) { c.QueueDepth = -1 },
		"MaxBurst":    func(c *iscsi.Config) { c.MaxBurst = 1 },
	} {
		cfg := good
		change(&cfg)
		_, err := iscsi.Dial(t.Context(), cfg)
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSecretIsNeverPrinted(t *testing.T) {
	t.Parallel()
	chap := iscsi.CHAP{Username: "ingot", Secret: "hunter2hunter2",
		TargetUsername: "machine", TargetSecret: "hunter2hunter3"}
	cfg := iscsi.Config{CHAP: &chap}
	var out strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&out, verb+verb+verb, chap, &chap, cfg)
	}
	text, err := json.Marshal(map[string]any{"chap": chap, "config": cfg})
	if err != nil {
		t.Fatal(err)
	}
	out.Write(text)
	log := slog.New(slog.NewJSONHandler(&out, nil))
	log.Info("x", "chap", chap, "pointer", &chap, "config", cfg)
	if strings.Contains(out.String(), "hunter2") || strings.Contains(out.String(), "68756e") {
		t.Errorf("secret shows in %s", out.String())
	}
	if !strings.Contains(out.String(), "CHAP user ingot") {
		t.Errorf("user does not show in %s", out.String())
	}
}
