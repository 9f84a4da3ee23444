package redfish_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ingot/internal/redfish"
)

// pair is a certificate and its key.
type pair struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// sign makes a certificate; without a parent it signs itself.
func sign(t *testing.T, c x509.Certificate, by *pair) pair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c.SerialNumber, c.NotBefore = big.NewInt(time.Now().UnixNano()), time.Now().Add(-48*time.Hour)
	if c.NotAfter.IsZero() {
		c.NotAfter = time.Now().Add(time.Hour)
	}
	if by == nil {
		by = &pair{&c, key}
	}
	der, err := x509.CreateCertificate(rand.Reader, &c, by.cert, key.Public(), by.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return pair{cert, key}
}

// file writes certificates.
func file(t *testing.T, pairs ...pair) string {
	t.Helper()
	var text []byte
	for _, p := range pairs {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.cert.Raw})...)
	}
	path := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestACertificateIsListedOrSignedForTheHost(t *testing.T) {
	t.Parallel()
	ca := sign(t, x509.Certificate{Subject: pkix.Name{CommonName: "CA"}, IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil)
	other := sign(t, x509.Certificate{Subject: pkix.Name{CommonName: "other"}, IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil)
	here := []net.IP{net.IPv4(127, 0, 0, 1)}
	signed := sign(t, x509.Certificate{IPAddresses: here}, &ca)
	elsewhere := sign(t, x509.Certificate{DNSNames: []string{"bmc.example"}}, &ca)
	old := sign(t, x509.Certificate{IPAddresses: here, NotAfter: time.Now().Add(-time.Hour)}, &ca)
	itself := sign(t, x509.Certificate{Subject: pkix.Name{CommonName: "iLO"},
		NotAfter: time.Now().Add(-time.Hour)}, nil)
	for name, c := range map[string]struct {
		of      pair
		listed  []pair
		trusted bool
	}{
		"signed":                      {signed, []pair{other, ca}, true},
		"signed by another":           {signed, []pair{other}, false},
		"signed for another":          {elsewhere, []pair{ca}, false},
		"signed for another, listed":  {elsewhere, []pair{ca, elsewhere}, true},
		"signed, expired":             {old, []pair{ca}, false},
		"its own, expired, nameless":  {itself, []pair{other, itself}, true},
		"its own, another is listed":  {itself, []pair{signed}, false},
		"signed, a brother is listed": {signed, []pair{elsewhere}, false},
	} {
		b, _ := start(t, nil)
		srv := httptest.NewUnstartedServer(b)
		srv.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{c.of.cert.Raw},
			PrivateKey: c.of.key}}}
		srv.Config.ErrorLog = log.New(io.Discard, "", 0)
		srv.StartTLS()
		t.Cleanup(srv.Close)
		b.URL = srv.URL
		_, err := b.client(t, redfish.Options{CA: file(t, c.listed...)}).System(t.Context(), "")
		var untrusted *tls.CertificateVerificationError
		if c.trusted != (err == nil) || err != nil && !errors.As(err, &untrusted) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Who may name the file may not have it read for ever.
func TestCertificatesAreInFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	large := filepath.Join(dir, "large")
	if err := os.WriteFile(large, make([]byte, 2<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/dev/zero", pipe, large} {
		_, err := redfish.New(redfish.Options{Address: "https://127.0.0.1", CA: path})
		if err == nil || !strings.Contains(err.Error(), "is no file of at most") {
			t.Errorf("%s: %v", path, err)
		}
	}
	certificates := filepath.Join(dir, "certificates")
	if err := os.MkdirAll(filepath.Join(certificates, "old"), 0o700); err != nil {
		t.Fatal(err)
	}
	own := file(t, sign(t, x509.Certificate{}, nil))
	if err := os.Rename(own, filepath.Join(certificates, "bmc.pem")); err != nil {
		t.Fatal(err)
	}
	if _, err := redfish.New(redfish.Options{Address: "https://127.0.0.1", CA: certificates}); err != nil {
		t.Errorf("a directory with another one in it: %v", err)
	}
}
