package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Versions of Ironic's API that calls are made with. The last one knows certificates of agents.
const (
	lookupVersion    = "1.62"
	heartbeatVersion = "1.68"
	minorNeeded      = 68
)

// agentVersion is what conductors are told: that of the ironic-python-agent whose commands these are, and
// that it is another one, which unpacks images (ingot) and knows kexec.load and kexec.execute (kexec).
const agentVersion = "9.4.0+ingot.kexec"

// hiddenToken is what a lookup says of a token that it has told before.
const hiddenToken = "******"

// errTokenLost ends an agent that will never be believed.
var errTokenLost = errors.New("the token of this machine's agent was told to another one before, or " +
	"to this one before it was restarted, and is lost. Deploy the machine again; if this happens " +
	"again, somebody else asks in its name")

// Standing is what the server knows about this machine.
type Standing struct {
	// Node is the UUID of its node.
	Node string
	// Token is what both sides know.
	Token string
	// Heartbeat is how long the server waits for a heartbeat.
	Heartbeat time.Duration
	// MD5 accepts md5 digests of images.
	MD5 bool
}

// longestLookupPause is the pause between rounds that others grow to.
const longestLookupPause = 10 * time.Second

// conflictPauses are those after a server said that the node is locked, in first pauses; the last one
// stays.
var conflictPauses = []time.Duration{5, 10, 30}

// conflictPause is that after the node was found locked so many times before.
func (c *Caller) conflictPause(before int) time.Duration {
	return conflictPauses[min(before, len(conflictPauses)-1)] * c.pause()
}

// Lookup asks which node this machine is, which has network cards with the given addresses, and
// what its token is unless that is known. It goes on until a server tells, or Patience is over.
func (c *Caller) Lookup(ctx context.Context, cards []string, token string) (Standing, error) {
	ctx, cancel := context.WithTimeout(ctx, c.patience())
	defer cancel()
	var past history
	locked := 0
	for pause := c.pause(); ; pause = min(pause*3/2, longestLookupPause) {
		s, err := c.lookup(ctx, cards, token, &past)
		if err == nil || errors.As(err, new(hopeless)) {
			return s, err
		}
		wait := pause*3/4 + rand.N(pause/2+1) // not all machines of a rack at once
		if r := (*Refusal)(nil); errors.As(err, &r) {
			if r.Status == http.StatusConflict {
				wait = c.conflictPause(locked)
				locked++
			}
			if text := r.Error(); text != past.text && ctx.Err() == nil {
				past.text = text
				c.say(text + "; asking again")
			}
		}
		select {
		case <-ctx.Done():
			return Standing{}, fmt.Errorf("no server tells which node this machine is, within %s; the "+
				"last answer: %s. Check ironic_api_url, the network, and that the node has ports with "+
				"the addresses %s and is being deployed or cleaned", c.patience(), past.text,
				strings.Join(cards, ", "))
		case <-time.After(wait):
		}
	}
}

// hopeless is an error that asking again would not change.
type hopeless struct{ error }

func (h hopeless) Unwrap() error { return h.error }

// lookup asks all servers once.
func (c *Caller) lookup(ctx context.Context, cards []string, token string, past *history) (Standing,
	error) {
	if err := c.checkVersion(ctx, past); err != nil {
		return Standing{}, err
	}
	query := url.Values{"addresses": {strings.Join(cards, ",")}}
	if c.Node != "" {
		query.Set("node_uuid", c.Node)
	}
	answer, err := c.round(ctx, call{method: http.MethodGet, path: "/v1/lookup", query: query,
		version: lookupVersion}, past)
	if err != nil {
		return Standing{}, err
	}
	s, err := ParseStanding(answer)
	if err != nil {
		return Standing{}, err
	}
	if c.Node != "" && !strings.EqualFold(s.Node, c.Node) {
		return Standing{}, hopeless{fmt.Errorf("the server takes this machine for node %s, but "+
			"deployment_id is %s", s.Node, c.Node)}
	}
	switch {
	case token != "":
		s.Token = token
	case s.Token == hiddenToken:
		return Standing{}, hopeless{errTokenLost}
	case s.Token == "":
		return Standing{}, hopeless{errors.New("the server told no token: it is too old for this agent")}
	}
	return s, nil
}

// checkVersion finds out whether the server knows what this agent says. One that does not tell its
// version is believed to.
func (c *Caller) checkVersion(ctx context.Context, past *history) error {
	answer, err := c.round(ctx, call{method: http.MethodGet, path: "/", version: lookupVersion}, past)
	if r := (*Refusal)(nil); err != nil && !errors.As(err, &r) {
		return err
	}
	var root struct {
		Default struct {
			Version string `json:"version"`
		} `json:"default_version"`
	}
	var major, minor int
	if json.Unmarshal(answer, &root) != nil {
		return nil
	}
	if n, _ := fmt.Sscanf(root.Default.Version, "%d.%d", &major, &minor); n == 2 && major == 1 &&
		minor < minorNeeded {
		return hopeless{fmt.Errorf("the server speaks Ironic's API up to %d.%d; this agent needs 1.%d",
			major, minor, minorNeeded)}
	}
	return nil
}

// ParseStanding reads the answer to a lookup.
func ParseStanding(answer []byte) (Standing, error) {
	var found struct {
		Node struct {
			UUID string `json:"uuid"`
		} `json:"node"`
		Config struct {
			Timeout float64 `json:"heartbeat_timeout"` // seconds
			Token   string  `json:"agent_token"`
			MD5     bool    `json:"agent_md5_checksum_enable"`
		} `json:"config"`
	}
	if err := json.Unmarshal(answer, &found); err != nil || !nodeName.MatchString(found.Node.UUID) {
		return Standing{}, fmt.Errorf("%.60q is no answer to a lookup", printable(string(answer)))
	}
	s := Standing{Node: found.Node.UUID, Token: found.Config.Token, MD5: found.Config.MD5,
		Heartbeat: defaultHeartbeat}
	if t := found.Config.Timeout; t >= 1 && t <= 1e6 {
		s.Heartbeat = time.Duration(t * float64(time.Second))
	}
	return s, nil
}

// cards are the addresses of this machine's network cards.
func cards() ([]string, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list network cards: %w", err)
	}
	var addresses []string
	for _, card := range all {
		if card.Flags&net.FlagLoopback == 0 && len(card.HardwareAddr) == 6 {
			addresses = append(addresses, card.HardwareAddr.String())
		}
	}
	return addresses, nil
}
