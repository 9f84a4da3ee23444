package redfish

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// maxCertificates bounds a file of certificates; those of all public CAs are 220 kB.
const maxCertificates = 1 << 20

// certificates reads a file of certificates, or all files of a directory.
func certificates(path string) ([]*x509.Certificate, error) {
	files := []string{path}
	if info, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("read certificates: %w", err)
	} else if info.IsDir() {
		if files, err = filepath.Glob(filepath.Join(path, "*")); err != nil {
			return nil, fmt.Errorf("read certificates: %w", err)
		}
	}
	var found []*x509.Certificate
	for _, file := range files {
		info, err := os.Stat(file)
		if err != nil {
			return nil, fmt.Errorf("read certificates: %w", err)
		}
		if info.IsDir() {
			continue
		}
		// Who names the file need not be who runs this host: a device or a pipe would be read for ever.
		if !info.Mode().IsRegular() || info.Size() > maxCertificates {
			return nil, fmt.Errorf("read certificates: %s is no file of at most %d bytes", file, maxCertificates)
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("read certificates: %w", err)
		}
		for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
			if block.Type != "CERTIFICATE" {
				continue
			}
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, fmt.Errorf("read certificates: %s: %w", file, err)
			}
			found = append(found, cert)
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%s has no certificate in PEM form", path)
	}
	return found, nil
}

// verify returns the check of a certificate: it is one of certs, or for the host and signed by one. Those
// that BMCs sign themselves often have the name of no host, or have expired; who has the key of one that
// is listed is who was meant.
func verify(certs []*x509.Certificate, host string) func(tls.ConnectionState) error {
	roots := x509.NewCertPool()
	for _, c := range certs {
		roots.AddCert(c)
	}
	return func(s tls.ConnectionState) error {
		leaf := s.PeerCertificates[0]
		if slices.ContainsFunc(certs, leaf.Equal) {
			return nil
		}
		between := x509.NewCertPool()
		for _, c := range s.PeerCertificates[1:] {
			between.AddCert(c)
		}
		_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, DNSName: host})
		if err != nil {
			return &tls.CertificateVerificationError{UnverifiedCertificates: s.PeerCertificates, Err: err}
		}
		return nil
	}
}
