package bootfile

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"ingot/internal/ingot"
)

const (
	// sayAfter is how long a wait goes on before anybody is told of it.
	sayAfter = 500 * time.Millisecond
	// lateFor is how long nobody waits again for a conductor that did not get a file in time.
	lateFor = 10 * time.Minute
)

// Await returns when enough conductors that live and have a hardware type hold files which this one
// holds, so that a machine can boot from any of them (S0.6). Each is asked for the files, which has it
// fetch them, and nothing else: what it says is what machines will be told. say is told for whom it
// waits. At the deadline it goes on if Quorum is all, with a warning; else it is Unavailable.
func (k *Keeper) Await(ctx context.Context, hardware string, files []ingot.File,
	say func(level, text string)) error {
	if k.Others == nil || k.Quorum == 1 {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	deadline := time.NewTimer(k.QuorumTimeout)
	defer deadline.Stop()
	asked, holds := map[string]bool{}, map[string]bool{}
	confirmed := make(chan string)
	told := ""
	for pause := sayAfter; ; pause = missingInterval {
		others := k.Others(hardware)
		var missing []string
		have, wait := 1, 0 // this one holds them
		for host, url := range others {
			if !asked[url] {
				asked[url] = true
				go k.confirm(ctx, url, files, confirmed)
			}
			switch {
			case holds[url]:
				have++
				k.setLate(host, false)
			case k.isLate(host):
				missing = append(missing, host+" (was late before)")
			default:
				missing = append(missing, host)
				wait++
			}
		}
		slices.Sort(missing)
		if k.Quorum == 0 && wait == 0 || k.Quorum > 0 && have >= k.Quorum {
			return nil
		}
		text := strings.Join(missing, ", ")
		if text == "" {
			text = "more conductors"
		}
		if pause != sayAfter && text != told {
			told = text
			say(ingot.LevelInfo, "kernel and ramdisk are held by "+plural(have)+"; waiting for "+text)
		}
		select {
		case url := <-confirmed:
			holds[url] = true
		case <-time.After(pause):
		case <-ctx.Done():
			return fmt.Errorf("wait for %s to hold kernel and ramdisk: %w", text, ctx.Err())
		case <-deadline.C:
			if alive := len(others) + 1; k.Quorum > alive {
				return ingot.Errorf(ingot.Unavailable, "[boot] quorum is %d, but no more than %s with "+
					"hardware type %s lived within %s: start more, or lower the quorum", k.Quorum,
					plural(alive), hardware, k.QuorumTimeout)
			}
			if k.Quorum > 0 {
				return ingot.Errorf(ingot.Unavailable, "kernel and ramdisk are held by %s after %s, but "+
					"[boot] quorum is %d; waited for %s: look there, or lower the quorum", plural(have),
					k.QuorumTimeout, k.Quorum, text)
			}
			for host, url := range others {
				k.setLate(host, !holds[url])
			}
			say(ingot.LevelWarning, fmt.Sprintf("going on without %s: kernel and ramdisk did not arrive "+
				"there within %s; look at the log there", text, k.QuorumTimeout))
			return nil
		}
	}
}

func plural(n int) string {
	if n == 1 {
		return "1 conductor"
	}
	return fmt.Sprintf("%d conductors", n)
}

func (k *Keeper) isLate(host string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return time.Since(k.late[host]) < lateFor
}

func (k *Keeper) setLate(host string, yes bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !yes {
		delete(k.late, host)
		return
	}
	if k.late == nil {
		k.late = map[string]time.Time{}
	}
	k.late[host] = time.Now()
}

// confirm says when a conductor has all of the files. It asks until ctx ends.
func (k *Keeper) confirm(ctx context.Context, base string, files []ingot.File,
	confirmed chan<- string) {
	for i := 0; i < len(files); {
		if k.confirms(ctx, base+"/files/"+files[i].SHA256+"/"+files[i].SHA256) {
			i++
			continue
		}
		select {
		case <-time.After(missingInterval):
		case <-ctx.Done():
			return
		}
	}
	select {
	case confirmed <- base:
	case <-ctx.Done():
	}
}

func (k *Keeper) confirms(ctx context.Context, url string) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, url, nil)
	if err != nil {
		return false
	}
	resp, err := k.Cache.client.Do(req)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}
