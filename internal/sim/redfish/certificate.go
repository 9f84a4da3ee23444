package redfish

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"time"
)

// RenewCertificate gives the service another certificate, for connections to come.
func (s *Service) RenewCertificate() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.renew()
}

// Certificate is the service's certificate in PEM, which is its own authority; nil without TLS.
func (s *Service) Certificate() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.certificate.Certificate == nil {
		return nil
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.certificate.Certificate[0]})
}

// renew makes a certificate. The caller holds mu.
func (s *Service) renew() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("key of the BMC of machine %s: %w", s.o.Name, err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 64))
	if err != nil {
		return fmt.Errorf("serial number of a certificate: %w", err)
	}
	template := x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "BMC of " + s.o.Name},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().AddDate(1, 0, 0),
		IPAddresses:           []net.IP{s.o.Addr.Addr().AsSlice()},
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		BasicConstraintsValid: true, IsCA: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, key.Public(), key)
	if err != nil {
		return fmt.Errorf("certificate of the BMC of machine %s: %w", s.o.Name, err)
	}
	s.certificate = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	return nil
}

// present is the certificate for a connection that begins.
func (s *Service) present(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.certificate
	return &c, nil
}
