package bus

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"maps"
	"math/big"
	"net"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"ingot/internal/ingot"
)

const (
	// KeySize is the size of a mesh's key, bytes.
	KeySize = 32
	// meshName is in all certificates of a mesh; the addresses of conductors are not.
	meshName = "ingot-mesh"
)

// Mesh is how embedded servers of several processes meet.
type Mesh struct {
	// Listen is the host:port for the others; port 0 is any.
	Listen string
	// Key is what all of a mesh share, KeySize random bytes. Who has it is a conductor.
	Key []byte
}

// configure makes the embedded server one of a mesh. With a mesh it has to have a socket for
// clients too: one of loopback, any port, with a token that nobody knows.
func (m *Mesh) configure(o *server.Options, token string) error {
	host, port, err := net.SplitHostPort(m.Listen)
	if err != nil {
		return ingot.Errorf(ingot.Invalid, "[cluster] listen is %q: write host:port", m.Listen)
	}
	// The server would try again and again, silently.
	free, err := net.Listen("tcp", m.Listen)
	if err != nil {
		return ingot.Errorf(ingot.Invalid, "the bus cannot listen: %w; is the port taken or the "+
			"address of another host? Set [cluster] listen", err)
	}
	free.Close()
	o.Cluster.Host = host
	if o.Cluster.Port, err = strconv.Atoi(port); err != nil || o.Cluster.Port > 65535 {
		return ingot.Errorf(ingot.Invalid, "[cluster] listen is %q: the port is no number", m.Listen)
	}
	if o.Cluster.Port == 0 {
		o.Cluster.Port = server.RANDOM_PORT
	}
	o.DontListen, o.Host, o.Port = false, "127.0.0.1", server.RANDOM_PORT
	// Not a user with a password: those are disconnected whenever the peers change.
	o.Authorization = token
	o.Cluster.Name = meshName
	o.Cluster.PoolSize = -1                             // one connection for each peer
	o.Cluster.TLSTimeout, o.Cluster.AuthTimeout = 5, 10 // seconds
	o.Cluster.PingInterval, o.Cluster.MaxPingsOut = 2*time.Second, 2
	o.Cluster.TLSConfig, err = m.tls()
	return err
}

// tls has both sides of a connection prove that they have the key: all certificates are signed
// by the one authority that the key makes. Nobody looks at the time: conductors whose clocks are
// wrong belong to the mesh, too.
func (m *Mesh) tls() (*tls.Config, error) {
	if len(m.Key) != KeySize {
		return nil, ingot.Errorf(ingot.Invalid, "the cluster's key has %d bytes, it needs %d",
			len(m.Key), KeySize)
	}
	seed, err := hkdf.Key(sha256.New, m.Key, nil, "ingot mesh authority", ed25519.SeedSize)
	if err != nil {
		return nil, err
	}
	signer := ed25519.NewKeyFromSeed(seed)
	from, to := time.Unix(0, 0), time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)
	authority := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{
		CommonName: meshName + " authority"}, NotBefore: from, NotAfter: to, IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, authority, authority, signer.Public(), signer)
	if err != nil {
		return nil, fmt.Errorf("make the mesh's authority: %w", err)
	}
	if authority, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: meshName},
		NotBefore: from, NotAfter: to, DNSNames: []string{meshName},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	if der, err = x509.CreateCertificate(rand.Reader, leaf, authority, public, signer); err != nil {
		return nil, fmt.Errorf("make this conductor's certificate: %w", err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(authority)
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: private}},
		RootCAs:      pool, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert,
		ServerName: meshName,
		Time:       func() time.Time { return from.Add(time.Hour) },
	}, nil
}

// MeshAddress is the host:port that this process listens on for others of the mesh, "" without one.
func (b *Bus) MeshAddress() string {
	if b.server == nil || b.server.ClusterAddr() == nil {
		return ""
	}
	return b.server.ClusterAddr().String()
}

// SetPeers names the mesh addresses (host:port) of all others, in any order; itself may be one
// of them. Connections to those that are not named any more end, and lost ones are made again
// until they are not. Nothing happens without a mesh.
func (b *Bus) SetPeers(addresses []string) error {
	if b.MeshAddress() == "" {
		return nil
	}
	b.peersMu.Lock()
	defer b.peersMu.Unlock()
	routes := map[string]*url.URL{}
	for _, a := range addresses {
		if a != "" && a != b.MeshAddress() {
			routes[a] = &url.URL{Scheme: "nats-route", Host: a}
		}
	}
	o := b.options.Clone()
	o.Cluster.Port = b.server.ClusterAddr().Port
	o.Routes = slices.Collect(maps.Values(routes))
	slices.SortFunc(o.Routes, func(x, y *url.URL) int {
		if x.Host < y.Host {
			return -1
		}
		return 1
	})
	if slices.EqualFunc(o.Routes, b.options.Routes, func(x, y *url.URL) bool {
		return x.Host == y.Host
	}) {
		return nil
	}
	if err := b.server.ReloadOptions(o.Clone()); err != nil {
		return fmt.Errorf("change the peers of the bus: %w", err)
	}
	b.options = o
	return nil
}

// Peers returns how many others of the mesh are connected.
func (b *Bus) Peers() int {
	if b.server == nil {
		return 0
	}
	return b.server.NumRoutes()
}
