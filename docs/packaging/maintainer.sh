#!/bin/sh
# maintainer.sh: print the package's maintainer, from what debchange(1) reads: DEBEMAIL, DEBFULLNAME.
case ${DEBEMAIL:-} in
  *'<'*'>') echo "$DEBEMAIL" ;;
  *) echo "${DEBFULLNAME:-The Busbar authors} <${DEBEMAIL:-busbar@example.org}>" ;;
esac
