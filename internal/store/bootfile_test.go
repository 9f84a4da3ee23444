package store_test

import (
	"strings"
	"testing"
	"time"

	"ingot/internal/ingot"
	"ingot/internal/store"
)

func bootFilesOf(t *testing.T, s *store.Store) map[string]bool {
	t.Helper()
	list, err := s.BootFiles(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]bool{}
	for _, f := range list {
		out[f.Source+" "+f.SHA256] = true
	}
	return out
}

// TestS0_4_ANodeThatNamesBootFilesWantsThem: from the transaction on that writes it, and not if that
// fails.
func TestS0_4_ANodeThatNamesBootFilesWantsThem(t *testing.T) {
	t.Parallel()
	s := open(t)
	n := newNode(1)
	n.DriverInfo = ingot.Object{"deploy_kernel": "http://h/k", "deploy_ramdisk": "http://h/r"}
	create(t, s, n)
	if got := bootFilesOf(t, s); len(got) != 2 || !got["http://h/k "] || !got["http://h/r "] {
		t.Errorf("wanted: %v", got)
	}
	n.DriverInfo["deploy_kernel"] = "http://h/k2"
	if err := s.UpdateNode(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	stale := *n
	stale.Generation--
	stale.DriverInfo = ingot.Object{"deploy_kernel": "http://h/never"}
	if err := s.UpdateNode(t.Context(), &stale); ingot.KindOf(err) != ingot.Stale {
		t.Fatalf("a stale write: %v", err)
	}
	// What is no URL of a reasonable length is no wish, and stops no node from being written.
	for i, odd := range []any{"", 7, nil, "a\x00b", strings.Repeat("x", 10_000), []any{"a"}} {
		m := newNode(2 + i)
		m.DriverInfo = ingot.Object{"deploy_ramdisk": odd}
		if odd != "a\x00b" { // PostgreSQL takes no such text at all
			create(t, s, m)
		}
	}
	if got := bootFilesOf(t, s); len(got) != 3 || !got["http://h/k2 "] {
		t.Errorf("wanted: %v", got)
	}
}

// TestABootFileIsFetchedByOne: who claims it, until what the source has is known or the claim ends.
func TestABootFileIsFetchedByOne(t *testing.T) {
	t.Parallel()
	s, ctx := open(t), t.Context()
	const source = "http://h/k"
	claim := func(digest, host string, d time.Duration, want bool) {
		t.Helper()
		if mine, err := s.ClaimBootFile(ctx, source, digest, host, d); err != nil || mine != want {
			t.Errorf("claim of %q by %s: %v, %v", digest, host, mine, err)
		}
	}
	claim("", "c1", time.Hour, false) // nobody wants it
	if err := s.WantBootFile(ctx, source); err != nil {
		t.Fatal(err)
	}
	claim("", "c1", time.Hour, true)
	claim("", "c2", time.Hour, false)
	claim("", "c1", time.Hour, true)
	claim("", "c1", 0, true)
	claim("", "c2", time.Hour, true)
	keep := func(digest string, want bool) {
		t.Helper()
		news, err := s.KeepBootFile(ctx, store.BootFile{Source: source, ETag: digest,
			File: ingot.File{SHA256: digest, Name: "k", Size: 1}})
		if err != nil || news != want {
			t.Errorf("keep %s: %v, %v", digest, news, err)
		}
		got, err := s.BootFile(ctx, source)
		if err != nil || got.SHA256 != digest || got.ETag != digest || got.Size != 1 {
			t.Errorf("the source has %+v, %v; want %s", got, err, digest)
		}
	}
	keep("aa", true)
	claim("", "c1", time.Hour, false) // it is known
	claim("aa", "c1", time.Hour, true)
	claim("aa", "c2", time.Hour, false)
	keep("bb", true)
	keep("bb", false)
	keep("aa", true) // the source went back
	if got := bootFilesOf(t, s); len(got) != 3 {
		t.Errorf("wanted: %v", got)
	}
}

// TestS0_8_WhatNodesHaveIsNotForgotten: neither what they name, nor what they boot, nor what would be
// booted next.
func TestS0_8_WhatNodesHaveIsNotForgotten(t *testing.T) {
	t.Parallel()
	s, ctx := open(t), t.Context()
	n := newNode(1)
	n.DriverInfo = ingot.Object{"deploy_kernel": "http://h/a_b&c"}
	n.Attempt = &ingot.Attempt{ID: "1", Ramdisk: ingot.File{SHA256: "booted", Name: "r", Size: 1}}
	n.Instance = &ingot.Instance{Kernel: ingot.File{SHA256: "instance", Name: "k", Size: 1}}
	create(t, s, n)
	for _, f := range [][2]string{{"http://h/a_b&c", "before"}, {"http://h/a_b&c", "next"},
		{"http://h/r", "booted"}, {"http://h/i", "instance"}, {"http://h/x", "unused"}} {
		_, err := s.KeepBootFile(ctx, store.BootFile{Source: f[0], File: ingot.File{SHA256: f[1]}})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := s.WantBootFile(ctx, "http://h/unnamed"); err != nil {
		t.Fatal(err)
	}
	if count, err := s.ForgetBootFiles(ctx, s.Now().Add(-time.Hour)); err != nil || count != 0 {
		t.Errorf("forgot %d that are young, %v", count, err)
	}
	count, err := s.ForgetBootFiles(ctx, s.Now().Add(time.Hour))
	got := bootFilesOf(t, s)
	if err != nil || count != 3 || len(got) != 4 || got["http://h/a_b&c before"] ||
		got["http://h/x unused"] || got["http://h/unnamed "] {
		t.Errorf("forgot %d, %v; left %v", count, err, got)
	}
}

// TestS0_9_TheUserImageIsNotHeld: only kernels and ramdisks are wanted everywhere. The image is
// fetched when it is written.
func TestS0_9_TheUserImageIsNotHeld(t *testing.T) {
	t.Parallel()
	s := open(t)
	n := newNode(1)
	n.InstanceInfo = ingot.Object{"image_source": "http://h/image.qcow2"}
	n.DriverInfo = ingot.Object{"deploy_kernel": "http://h/k"}
	create(t, s, n)
	n.ProvisionState, n.BootIntent = "deploying", ingot.BootDeploy
	if err := s.UpdateNode(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	if got := bootFilesOf(t, s); len(got) != 1 || !got["http://h/k "] {
		t.Errorf("wanted: %v", got)
	}
}
